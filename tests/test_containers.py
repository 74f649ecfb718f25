"""The definitions of images: what they copy, install and start is there. Neither Docker nor Apptainer is needed."""

import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
DOCKER, APPTAINER = ROOT / "recipes" / "Dockerfile", ROOT / "recipes" / "maml_toolkit.def"
INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "help"}


def docker():
    """(instruction, the rest) of each line of the Dockerfile."""
    text = re.sub(r"\\\n", " ", DOCKER.read_text(encoding="utf-8"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in lines]


def apptainer():
    """Header and sections of the definition: name -> lines."""
    sections, name = {"header": []}, "header"
    for line in APPTAINER.read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            assert name not in sections
            sections[name] = []
        elif line.strip() and not line.startswith("#"):
            sections[name].append(line.strip())
    return sections


def of(instruction):
    return [rest for name, rest in docker() if name == instruction]


def in_docker():
    """What lies in the image: path from the folder of the build -> source."""
    found = {}
    for rest in of("COPY"):
        *given, to = shlex.split(rest)
        for one in given:
            folder = (ROOT / one).is_dir()
            found[PurePosixPath(to) if folder or not to.endswith("/") else PurePosixPath(to) / Path(one).name] = one
    return found


def in_apptainer():
    place = "/opt/maml_toolkit/"
    pairs = [line.split() for line in apptainer()["files"]]
    assert all(to.startswith(place) for _, to in pairs)
    return {PurePosixPath(to.removeprefix(place)): source for source, to in pairs}


IMAGES = {"docker": (in_docker, lambda: of("RUN"), lambda: of("FROM")[0]),
          "apptainer": (in_apptainer, lambda: apptainer()["post"], lambda: header()["From"])}


def header():
    return dict(line.split(": ", 1) for line in apptainer()["header"])


@pytest.fixture(params=IMAGES)
def image(request):
    """What lies where, the lines of the shell, and the image that it begins with."""
    return [make() for make in IMAGES[request.param]]


def test_the_files_are_made_of_what_docker_and_apptainer_know():
    assert {name for name, _ in docker()} == INSTRUCTIONS
    assert docker()[0][0] == "FROM"
    assert set(apptainer()) == {"header", *SECTIONS}
    assert header()["Bootstrap"] == "docker"


def test_everything_that_is_copied_is_there_under_its_own_name(image):
    lies, _, _ = image
    assert len(lies) == 8
    for place, source in lies.items():
        assert (ROOT / source).exists(), source
        assert str(place) == source


def test_what_the_package_is_built_from_is_copied(image):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"],
              *wheel["force-include"]}
    assert {PurePosixPath(one) for one in wanted} <= set(image[0])


def test_what_pip_is_given_is_copied_before_it_runs_and_the_shell_understands_it(image):
    lies, lines, _ = image
    installs = [words for line in lines for words in re.findall(r"pip install ([^;]*)", line)]
    assert len(installs) == 2
    for words in installs:
        given = re.findall(r"(?:-c|-r) (\S+)|grep \S+ (\S+?)\)", words)
        assert given
        assert {PurePosixPath(one or other) for one, other in given} <= set(lies)
    assert installs[-1].split()[-1] == "."
    for line in lines:
        assert subprocess.run(["sh", "-n", "-c", line], check=False).returncode == 0, line
    names = [name for name, _ in docker()]
    assert names.index("RUN") > len(names) - 1 - names[::-1].index("COPY")


def test_torch_is_the_one_of_the_constraints_for_cpus_unless_cuda_is_asked_for(image):
    first = next(line for line in image[1] if "requirements" in line)
    shell = first.replace("{{ CUDA }}", "$CUDA").replace("pip install", "printf '%s\\n'")
    said = {cuda: subprocess.run(["sh", "-c", shell], cwd=ROOT, env={"CUDA": cuda, "PATH": "/usr/bin:/bin"}, check=True,
                                 capture_output=True, text=True).stdout.split() for cuda in ("0", "1")}
    assert said["1"] == []
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert said["0"] == ["--no-cache-dir", pinned, "-r", "binder/requirements.txt"]
    assert "CUDA=0" in of("ARG")
    assert apptainer()["arguments"] == ["CUDA=0"]


def test_the_python_of_an_image_is_one_that_the_package_allows(image):
    name, _, tag = image[2].partition(":")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert name == "python"
    assert SpecifierSet(project["requires-python"]).contains(re.fullmatch(r"(3\.\d+)-slim", tag)[1])


def test_what_an_image_starts_is_the_command_of_the_package():
    assert json.loads(of("ENTRYPOINT")[0]) == ["python", "-m", "maml_toolkit"]
    assert json.loads(of("CMD")[0]) == ["--help"]
    assert apptainer()["runscript"] == ['exec python -m maml_toolkit "$@"']
    assert importlib.util.find_spec("maml_toolkit.__main__") is not None


def test_an_image_names_no_host():
    host = re.compile(r"https?:|--\S*index|\b[\w-]+\.(?:org|com|io|net|dev)\b")
    assert [host.findall(path.read_text(encoding="utf-8")) for path in (DOCKER, APPTAINER)] == [[], []]


REGISTRY = re.compile(r"pypi|pythonhosted|anaconda|conda-forge|download\.pytorch|index-url")


def test_readme_and_first_page_install_from_the_checkout_with_the_torch_that_is_wanted_and_name_no_registry():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    of_a_cpu, of_others = ["-r", "binder/requirements.txt"], [one for one in wanted if one.startswith("torch>")]
    for page, expected in (("README.md", [of_a_cpu, ["."]]), ("docs/get-started.md", [of_a_cpu, of_others, ["."]])):
        text = (ROOT / page).read_text(encoding="utf-8")
        section = text.partition("\n## Install\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        lines = [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("python -m pip")]
        assert [words[4:] for words in lines] == expected
        assert not REGISTRY.search(text)
    assert (ROOT / of_a_cpu[1]).is_file()
