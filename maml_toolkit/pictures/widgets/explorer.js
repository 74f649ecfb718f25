/* The explorer's front end. Arrays arrive once, compressed; everything after that happens here.
 *
 * Voxels are those of the canonical grid: x to the patient's right, y to the front, z to the head, x fastest in memory.
 * Pictures are seen the radiological way: column = last - index, row = last - index in every plane, so that the
 * patient's right (or, from the side, the front) is on the left, and the front or the head at the top.
 */

const PLANES = [
  { name: "axial", across: 0, up: 1, through: 2, letters: ["R", "L", "A", "P"] },
  { name: "coronal", across: 0, up: 2, through: 1, letters: ["R", "L", "S", "I"] },
  { name: "sagittal", across: 1, up: 2, through: 0, letters: ["A", "P", "S", "I"] },
];
const AXES = [
  { label: "Right – left", reversed: true, signs: "LR" },
  { label: "Front – back", reversed: true, signs: "PA" },
  { label: "Feet – head", reversed: false, signs: "IS" },
];
const CHANGES = [
  { name: "lost", tells: (before, now) => before > 0 && now === 0 },
  { name: "gained", tells: (before, now) => before === 0 && now > 0 },
  { name: "other class", tells: (before, now) => before > 0 && now > 0 && before !== now },
];
const WINDOWS = { "soft tissue": [40, 400], liver: [80, 150], lung: [-600, 1500], bone: [400, 1800] };
const TYPES = { uint8: Uint8Array, int16: Int16Array };
const ATTENTION_NOTE =
  "Attention weighs the features of a scan, from 0 to 1. It has no sign, so a high value argues neither for nor " +
  "against a class, and it is no probability over the scans: the values of a voxel need not add up to 1.";
const UNCERTAINTY_NOTE =
  "Uncertainty is the entropy of all that was asked: every scan, and all but each one. It is 0 where all say the same for " +
  "certain, and largest where every class is as likely. It belongs to the answer, and is drawn over every scan.";
const NOT_LINEAR = "The log-odds of several classes are not linear in what the scans say, so each class is weighed by its " +
  "part in the answer; the shares add up exactly.";
const REST = "everything else";
const LABELS = { truth: "ground truth", prediction: "prediction" };
const HALO = "rgba(0,0,0,0.8)";
const TALLEST = 300;
const GAP = 4;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const joined = (names) => names.join(" + ");
const same = (one, other) => one.length === other.length && one.every((name) => other.includes(name));
const rgb = (hex) => [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
const signed = (value, digits) => value.toFixed(digits).replace("-", "−");

/* An element. JupyterLab takes the arrow keys from whatever has the focus, unless that very element says otherwise. */
function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  if (["input", "select", "button"].includes(tag) || "tabIndex" in properties) node.dataset.lmSuppressShortcuts = "true";
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/* A control, or several, behind a word for it. */
function line(word, ...nodes) { return h("label", { className: "line" }, h("span", { textContent: word }), ...nodes); }

/* A slider; what it does is told its value as a number, and the event. */
function slider(name, [min, max, step], value, act) {
  const input = h("input", { type: "range", name, min, max, step, value });
  input.oninput = (event) => act(Number(input.value), event);
  return input;
}

function swatch(colour) {
  const node = h("span", { className: "swatch", "aria-hidden": "true" });
  node.style.background = colour;
  return node;
}

// ---- log-odds, as in prediction/contrast.py ----------------------------------------------------------------------

function lse(values) {
  const top = Math.max(...values);
  return top + Math.log(values.reduce((sum, one) => sum + Math.exp(one - top), 0));
}

/* The weights of classes with which their changes from a bias sum to the change of lse. */
function weightsOf(bias, change) {
  if (bias.length === 1) return [1];
  const softmax = (values) => { const whole = lse(values); return values.map((one) => Math.exp(one - whole)); };
  const answer = bias.map((one, k) => one + change[k]), before = softmax(bias), after = softmax(answer);
  const by = (weights) => weights.reduce((sum, one, k) => sum + one * change[k], 0);
  const lowest = by(before), apart = by(after) - lowest;
  const place = apart > 0 ? clamp((lse(answer) - lse(bias) - lowest) / apart, 0, 1) : 0;
  return before.map((one, k) => one + place * (after[k] - one));
}

/* Of every class the weight, negative on the other side, with which its terms sum to a share in the log-odds. */
export function signedWeights({ over, under }, bias, change) {
  const found = bias.map(() => 0);
  for (const [sign, side] of [[1, over], [-1, under]]) {
    weightsOf(side.map((k) => bias[k]), side.map((k) => change[k])).forEach((one, k) => { found[side[k]] = sign * one; });
  }
  return found;
}

export function logOdds({ over, under }, logits) {
  return lse(over.map((k) => logits[k])) - lse(under.map((k) => logits[k]));
}

// ---- arrays ----------------------------------------------------------------------------------------------------

class Arrays {
  constructor(summary, packed) {
    this.summary = summary;
    this.packed = packed;
    this.open = new Map();
  }

  async load(names) {
    await Promise.all(names.filter((name) => !this.open.has(name)).map(async (name) => {
      const stream = new Blob([this.packed[name]]).stream().pipeThrough(new DecompressionStream("deflate"));
      const Type = TYPES[this.summary.arrays[name].type];
      this.open.set(name, new Type(await new Response(stream).arrayBuffer()));
    }));
  }

  of(name) { return this.open.get(name); }

  shape(name) { return this.summary.arrays[name].shape.slice(-3); }
}

function namesOf(summary, answer) {
  const of = (kind) => (name) => `${kind}/${answer}/${name}`;
  const { attention, contributions, uncertainty, sums } = summary.answers[answer];
  return [`classes/${answer}`, ...attention.map(of("attention")), ...contributions.map(of("contribution")),
    ...(sums ? [] : [`logits/${answer}`]), ...(uncertainty.length ? [`uncertainty/${answer}`] : [])];
}

/* Where voxels lie in an array of a box of the volume that holds every n-th of them; -1 outside of the box. */
class Places {
  constructor(volume, box, shape, every) {
    const strides = [1, shape[0], shape[0] * shape[1]];
    this.axes = box.map(([start, stop], axis) => Int32Array.from({ length: volume[axis] }, (_, index) =>
      index < start || index >= stop ? -1 :
        Math.min(Math.floor((index - start) / every), shape[axis] - 1) * strides[axis]));
  }

  at([x, y, z]) {
    const offsets = [this.axes[0][x], this.axes[1][y], this.axes[2][z]];
    return offsets.includes(-1) ? -1 : offsets[0] + offsets[1] + offsets[2];
  }

  /* A function (i, j) -> the place of a pixel of a slice, i and j being its indices across and up. */
  inSlice(plane, index) {
    const across = this.axes[plane.across], up = this.axes[plane.up], base = this.axes[plane.through][index];
    return (i, j) => base < 0 || across[i] < 0 || up[j] < 0 ? -1 : base + across[i] + up[j];
  }
}

function times(matrix, [x, y, z]) {
  return matrix.slice(0, 3).map(([a, b, c, d]) => a * x + b * y + c * z + d);
}

// ---- pictures --------------------------------------------------------------------------------------------------

/* Whether brightness is in HU or in percentiles. */
function scaleOf(modality) { return modality.kind === "ct" ? "ct" : "mr"; }

/* The intensities that are black and white. */
function windowOf({ kind, percentiles }, brightness) {
  if (kind === "ct") {
    const [level, width] = brightness.ct;
    return [level - width / 2, level + width / 2];
  }
  return brightness.mr.map((percent) => {
    const place = clamp(percent, 0, 100) * 2, below = Math.floor(place), above = Math.ceil(place);
    return percentiles[below] + (place - below) * (percentiles[above] - percentiles[below]);
  });
}

/* A function from an intensity code of a modality to its grey. */
function greys(modality, brightness) {
  const [low, high] = windowOf(modality, brightness), gain = 255 / Math.max(high - low, 1e-6);
  const { kind, low: zero, step } = modality;
  if (kind === "ct") return (code) => clamp(Math.round((code - low) * gain), 0, 255);
  const table = Uint8ClampedArray.from({ length: 256 }, (_, code) =>
    code || kind !== "mr" ? (zero + step * code - low) * gain : 0);
  return (code) => table[code];
}

/* A grey pixel with a colour over it, as canvases keep them. */
function over(grey, red, green, blue, alpha) {
  const rest = grey * (1 - alpha);
  return 0xff000000 | (rest + blue * alpha) << 16 | (rest + green * alpha) << 8 | (rest + red * alpha);
}

/* Opacity of a contribution, as a share of the slider's: full from a third of the range on. */
function fade(share) { return Math.min(1, 3 * Math.abs(share)); }

/* Closed outlines of a mask in a plane, through the middles of the pixels' edges, in millimetres. */
function outline(mask, { columns: width, rows: height, wide, high }, scratch) {
  const across = width + 1, { first, second } = scratch;
  first.fill(-1, 0, across * (height + 1));
  second.fill(-1, 0, across * (height + 1));
  const starts = [];
  const edge = (from, to) => {
    if (first[from] < 0) first[from] = to; else second[from] = to;
    starts.push(from);
  };
  for (let row = 0, pixel = 0; row < height; row++) {
    for (let column = 0; column < width; column++, pixel++) {
      if (!mask[pixel]) continue;
      const corner = row * across + column;
      if (row === 0 || !mask[pixel - width]) edge(corner, corner + 1);
      if (column === width - 1 || !mask[pixel + 1]) edge(corner + 1, corner + across + 1);
      if (row === height - 1 || !mask[pixel + width]) edge(corner + across + 1, corner + across);
      if (column === 0 || !mask[pixel - 1]) edge(corner + across, corner);
    }
  }
  const path = new Path2D();
  for (const start of starts) {
    let from = start, begun = false;
    while (first[from] >= 0) {
      const to = first[from];
      first[from] = second[from];
      second[from] = -1;
      const x = (from % across + to % across) / 2 * wide;
      const y = (Math.floor(from / across) + Math.floor(to / across)) / 2 * high;
      if (begun) path.lineTo(x, y); else path.moveTo(x, y);
      begun = true;
      from = to;
    }
    if (begun) path.closePath();
  }
  return starts.length ? path : null;
}

function haloed(context, text, x, y, textAlign, font) {
  Object.assign(context, { textAlign, font, fillStyle: "#fff", strokeStyle: HALO, lineWidth: 3 });
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

/* Writes a text and returns where the next one begins. */
function written(context, text, x, y) {
  context.fillText(text, x, y);
  return x + context.measureText(text).width + 8;
}

function hatch(context, width, height, text, style) {
  context.fillStyle = style.ground;
  context.fillRect(0, 0, width, height);
  context.strokeStyle = style.line;
  context.lineWidth = 1;
  context.beginPath();
  for (let start = -height; start < width; start += 9) {
    context.moveTo(start, height);
    context.lineTo(start + height, 0);
  }
  context.stroke();
  context.strokeRect(0.5, 0.5, width - 1, height - 1);
  context.font = `12px ${style.font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const widest = Math.max(...text.map((line) => context.measureText(line).width));
  context.fillRect(width / 2 - widest / 2 - 6, height / 2 - 10 * text.length, widest + 12, 20 * text.length);
  context.fillStyle = style.text;
  text.forEach((line, number) => context.fillText(line, width / 2, height / 2 + (number - (text.length - 1) / 2) * 16));
}

/* A round length that takes at most a third of a width. */
function barLength(widthMm) {
  const power = 10 ** Math.floor(Math.log10(widthMm / 3));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= widthMm / 3) ?? power;
}

// ---- the widget ------------------------------------------------------------------------------------------------

class Explorer {
  constructor(model, el) {
    this.model = model;
    this.summary = model.get("summary");
    this.arrays = new Arrays(this.summary, model.get("arrays"));
    this.at = [...this.summary.start];
    this.answer = 0;
    this.map = "none";
    this.opacity = 0.6;
    this.range = 1;
    this.shown = { truth: this.summary.truth, prediction: true };
    this.regions = new Set(this.summary.regions.map(({ name }) => name));
    this.brightness = structuredClone(this.summary.window);
    this.oneRegion = this.summary.regions.length === 1;
    this.zoom = 1;
    this.byPlane = this.summary.modalities.length <= 2;
    this.planes = this.framed(PLANES.map((plane) => this.measured(plane)));
    this.single = null;
    this.outlines = new Map();
    this.changes = new Map();
    this.weights = new Map();
    this.limits = new Map();
    this.since = null;
    this.asked = 0;
    const { shape, box, every } = this.summary;
    const largest = Math.max(...shape) + 2;
    this.scratch = { first: new Int32Array(largest * largest), second: new Int32Array(largest * largest) };
    this.imageAt = new Places(shape, shape.map((size) => [0, size]), shape, 1);
    this.classAt = new Places(shape, box, this.arrays.shape("classes/0"), 1);
    const maps = this.arrays.shape(Object.keys(this.summary.arrays).find((name) => /^(contribution|logits)\//.test(name)));
    this.mapAt = new Places(shape, box, maps, every);
    this.mapSize = maps.reduce((product, size) => product * size, 1);
    this.root = h("div", { className: "maml-explorer" },
      h("p", { className: "loading", textContent: "Unpacking the case …" }));
    el.append(this.root);
  }

  async start() {
    if (!("DecompressionStream" in window)) {
      throw new Error("This browser cannot unpack the case: Chrome 80, Firefox 113, Safari 16.4 or newer can.");
    }
    const always = Object.keys(this.summary.arrays).filter((name) => name.startsWith("image/") || name === "truth");
    await this.arrays.load([...always, ...namesOf(this.summary, 0)]);
    this.signal = this.whereSignal();
    this.build();
    this.follow();
    this.layout();
  }

  /* Where any MR is not zero; null where a CT has a signal everywhere. */
  whereSignal() {
    const present = this.summary.modalities.filter((one) => one.present);
    if (present.some((one) => one.kind === "ct")) return null;
    const images = present.map((one) => this.arrays.of(`image/${one.name}`));
    const signal = new Uint8Array(images[0].length);
    for (const image of images) for (let i = 0; i < signal.length; i++) if (image[i]) signal[i] = 1;
    return signal;
  }

  get facts() { return this.summary.answers[this.answer]; }

  /* All that a map depends on but the place. */
  get chosen() {
    return [this.answer, this.map, this.classChoice.value, this.againstChoice.value, this.range, this.opacity].join();
  }

  get isSigned() { return this.map === "contribution"; }

  /* Red, green and blue of the 256 colours of the map, one after another. */
  get colours() { return this.summary.colours[this.isSigned ? "RdBu_r" : "cividis"]; }

  get voxel() { return times(this.summary.to_file, this.at).map(Math.round); }

  get millimetres() { return times(this.summary.affine, this.at); }

  // ---- controls

  build() {
    const { summary } = this;
    this.title = h("strong", { textContent: `Case ${summary.case}` });
    this.position = h("span", { className: "position" });
    this.pictures = h("div", { className: "pictures" });
    this.key = h("div", { className: "key" });
    this.message = h("p", { className: "message", role: "status", "aria-live": "polite", hidden: true });
    this.table = h("table");
    this.table.style.minWidth = `${220 + 68 * (summary.modalities.length + 3)}px`;
    this.here = h("p", { className: "here", role: "status" });
    this.note = h("p", { className: "note" });
    const side = h("div", { className: "side" }, this.scansControls(), this.mapControls(), this.contourControls(),
      this.positionControls(), this.brightnessControls(), this.saveControls());
    this.root.replaceChildren(
      h("header", {}, this.title, this.position),
      h("div", { className: "main" },
        h("div", { className: "left" }, this.pictures, this.here, this.key, this.message,
          h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Values at the crosshair" },
            this.table), this.note), side),
      h("footer", { textContent: this.footer() }));
    this.panels = summary.modalities.flatMap((modality) => this.planes.map((plane) => this.panel(modality, plane)));
    this.pictures.append(...this.panels.map(({ canvas }) => canvas));
    this.refreshControls();
  }

  footer() {
    const { summary } = this;
    const steps = [...new Set(summary.answers.map((one) => one.step))].sort();
    const gap = Math.max(0, ...summary.answers.filter((one) => one.sums).map((one) => one.gap));
    return [summary.empty ? "The answer is background everywhere." : "",
      `${summary.memory}.`,
      `Shares and log-odds are kept in steps of ${steps.join(" or ")}, attention in steps of 0.004.`,
      summary.modalities.some(({ present, kind }) => present && kind !== "ct") ?
        "Intensities other than HU are kept in 255 steps, the brightest 0.05 % as one." : "",
      summary.every > 1 ? `Maps hold one voxel of every ${summary.every} on each axis; images and labels hold all.` : "",
      gap > 0.002 ? `The method's own contributions and bias miss its log-odds by up to ${gap.toFixed(3)}.` : "",
      "Click or drag in a picture to move the crosshair; then arrow keys move it, the wheel and Page Up and Down change " +
      "the slice, Enter or a double click enlarges a picture.",
    ].filter(Boolean).join(" ");
  }

  group(title, ...children) { return h("fieldset", {}, h("legend", { textContent: title }), ...children); }

  scansControls() {
    const { summary } = this;
    this.scanBoxes = summary.modalities.map(({ name, present }) => {
      const box = h("input", { type: "checkbox", disabled: !present, name: `scan-${name}`,
        onchange: () => this.choose(this.ticked()) });
      return { name, box, label: h("label", { title: present ? "" : "not acquired" }, box, name) };
    });
    const acquired = summary.modalities.filter((one) => one.present).length;
    const children = [h("p", { className: "hint", textContent: "Untick a scan: what if it were missing?" }),
      h("div", { className: "row" }, ...this.scanBoxes.map(({ label }) => label))];
    this.subsetChoice = h("select", {}, ...summary.answers.map((one, number) =>
      h("option", { value: number, textContent: joined(one.modalities) })));
    this.subsetChoice.onchange = () => this.choose(summary.answers[this.subsetChoice.value].modalities);
    if (summary.answers.length > 1 && summary.answers.length < 2 ** acquired - 1) {
      children.push(h("label", {}, "Computed", this.subsetChoice));
    }
    return this.group("Scans used", ...children);
  }

  mapControls() {
    const { summary } = this;
    const has = (kind) => summary.answers.some((one) => one[kind].length);
    const option = (value, enabled = true, textContent = value) =>
      h("option", { value, textContent, disabled: !enabled });
    this.mapChoice = h("select", { name: "map" }, option("none"), option("attention", has("attention")),
      option("contribution", has("contributions")), option("uncertainty", has("uncertainty")),
      option("difference", summary.answers.length > 1, "change"));
    this.mapChoice.onchange = (event) => {
      this.map = this.mapChoice.value;
      this.refreshControls();
      this.layout(event);
    };
    const sides = summary.sides.map(({ name }) => name).filter((name) => name !== summary.classes[0]);
    this.classChoice = h("select", { name: "class" }, ...sides.map((name) => option(name)));
    this.againstChoice = h("select", { name: "against" }, ...summary.against.map((name) => option(name)));
    const place = this.classAt.at(this.at);
    this.classChoice.value = summary.named[place < 0 ? 1 : this.arrays.of("classes/0")[place] || 1];
    this.classChoice.onchange = (event) => { this.againstUsual(); this.changed(event); };
    this.againstChoice.onchange = (event) => this.changed(event);
    this.againstUsual();
    this.classRow = line("Log-odds of", this.classChoice);
    this.againstRow = line("against", this.againstChoice);
    this.rangeRow = line("Range", slider("range", [-2, 2, 0.25], 0, (value, event) => {
      this.range = 2 ** value;
      this.changed(event);
    }));
    this.opacityRow = line("Opacity", slider("opacity", [0, 1, 0.05], this.opacity, (value, event) => {
      this.opacity = value;
      this.changed(event);
    }));
    const lacking = ["attention", "contributions"].filter((kind) => !has(kind));
    const why = lacking.length ? [h("p", { className: "hint", textContent: `No ${lacking.join(" and no ")} here: the ` +
      "method has none, or the prediction was made without (attention=True, contributions=True)." })] : [];
    return this.group("Map over the scans", line("Map", this.mapChoice), this.classRow, this.againstRow, this.rangeRow,
      this.opacityRow, ...why);
  }

  side(name) { return this.summary.sides.find((one) => one.name === name); }

  /* What is shown, against what: what is usual of it, unless something else is named. */
  contrast(name = this.classChoice.value, against = this.againstChoice.value) {
    const region = this.summary.exclusive && against === REST && this.summary.regions.find((one) => one.name === name);
    const over = (region || this.side(name)).classes;           // of one name for both the region's, as in Contrast.of
    const rest = this.summary.exclusive ? [...Array(this.summary.channels).keys()].filter((k) => !over.includes(k)) : [0];
    const under = this.side(against)?.classes ?? rest;
    return { name, against, over, under, linear: over.length === 1 && under.length === 1 };
  }

  /* Against the background or everything else again; what has a class in common cannot be chosen. */
  againstUsual() {
    const { classes, against } = this.side(this.classChoice.value);
    for (const option of this.againstChoice.options) {
      option.disabled = Boolean(this.side(option.value)?.classes.some((k) => classes.includes(k)));
    }
    this.againstChoice.value = against;
  }

  whole() { return this.summary.answers[0].modalities.length > 2 ? "all scans" : joined(this.summary.answers[0].modalities); }

  contourControls() {
    const box = (label, mark, set) => {
      const input = h("input", { type: "checkbox", checked: true, name: `contour-${label}` });
      input.onchange = (event) => { set(input.checked); this.changed(event); };
      return h("label", {}, input, mark, label);
    };
    const stroke = (source) => {
      const mark = h("span", { className: `stroke ${source}`, "aria-hidden": "true" });
      if (this.oneRegion) mark.style.borderColor = this.summary.sources[source];
      return mark;
    };
    const sources = Object.keys(LABELS).filter((name) => name !== "truth" || this.summary.truth)
      .map((name) => box(LABELS[name], stroke(name), (on) => { this.shown[name] = on; }));
    const regions = this.oneRegion ? [] : this.summary.regions.map(({ name, colour }) =>
      box(name, swatch(colour), (on) => { this.regions[on ? "add" : "delete"](name); }));
    return this.group("Contours", h("div", { className: "row" }, ...sources), h("div", { className: "row" }, ...regions));
  }

  positionControls() {
    this.sliders = AXES.map(({ label, reversed }, axis) => {
      const last = this.summary.shape[axis] - 1, value = h("output");
      const input = slider(`axis-${axis}`, [0, last, 1], 0, (place, event) => {
        const at = [...this.at];
        at[axis] = reversed ? last - place : place;
        this.move(at, event);
      });
      return { input, value, reversed, last, row: line(label, input, value) };
    });
    const zoom = slider("zoom", [1, 6, 0.25], 1, (value, event) => {
      this.zoom = value;
      this.aim();
      this.changed(event);
    });
    return this.group("Position", ...this.sliders.map(({ row }) => row), line("Zoom", zoom));
  }

  brightnessControls() {
    const kinds = new Set(this.summary.modalities.filter((one) => one.present).map(scaleOf));
    const range = (label, name, kind, number, steps) => {
      const value = h("output");
      const input = slider(name, steps, this.brightness[kind][number], (chosen, event) => {
        this.brightness[kind][number] = chosen;
        show();
        this.changed(event);
      });
      const show = () => {
        input.value = this.brightness[kind][number];
        value.textContent = `${this.brightness[kind][number]} ${kind === "mr" ? "%" : "HU"}`;
      };
      show();
      return { show, row: line(label, input, value) };
    };
    const rows = [];
    if (kinds.has("mr")) {
      rows.push(range("Black at", "black", "mr", 0, [0, 50, 0.5]).row,
        range("White at", "white", "mr", 1, [50, 100, 0.5]).row);
    }
    if (kinds.has("ct")) {
      const both = [range("Level", "level", "ct", 0, [-1000, 2000, 5]), range("Width", "width", "ct", 1, [1, 3000, 5])];
      const choices = { "as first shown": [...this.brightness.ct], ...WINDOWS };
      const choice = h("select", { name: "window" }, ...Object.keys(choices).map((name) => h("option", { textContent: name })));
      choice.onchange = (event) => {
        this.brightness.ct = [...choices[choice.value]];
        both.forEach(({ show }) => show());
        this.changed(event);
      };
      rows.push(line("Window", choice), ...both.map(({ row }) => row));
    }
    return this.group(kinds.has("mr") ? "Brightness (percentiles)" : "Brightness", ...rows);
  }

  saveControls() {
    const button = (textContent, onclick) => h("button", { type: "button", textContent, onclick });
    return h("div", { className: "row buttons" }, button("Save picture", () => this.savePicture()),
      button("Save table", () => this.saveTable()));
  }

  refreshControls() {
    for (const { name, box } of this.scanBoxes) box.checked = this.facts.modalities.includes(name);
    this.subsetChoice.value = this.answer;
    this.mapChoice.value = this.map;
    this.classRow.hidden = this.againstRow.hidden = this.rangeRow.hidden = !this.isSigned;
    this.opacityRow.hidden = this.map === "none";
  }

  ticked() { return this.scanBoxes.filter(({ box }) => box.checked).map(({ name }) => name); }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
  }

  /* Show the answer from a subset of the scans, or say why that cannot be. */
  async choose(scans) {
    const { answers } = this.summary;
    const number = answers.findIndex((one) => same(one.modalities, scans));
    if (number < 0) {
      this.say(scans.length === 0 ? "At least one scan must stay: without any there is nothing to answer from." :
        `The answer from ${joined(scans)} was not computed, so nothing has changed. In Python, ` +
        "explore(case, predictor.subsets(case, attention=True, contributions=True)) computes every subset that the " +
        "method answers.");
      this.refreshControls();
      return;
    }
    const asked = ++this.asked;
    const since = performance.now();
    await this.arrays.load(namesOf(this.summary, number));
    if (asked !== this.asked) return;
    this.answer = number;
    this.say("");
    this.refreshControls();
    this.model.set("scans", answers[number].modalities);
    this.save();
    this.changed({ timeStamp: since });
  }

  // ---- position

  move(at, event) {
    this.at = at.map((index, axis) => clamp(Math.round(index), 0, this.summary.shape[axis] - 1));
    this.keepInside();
    this.model.set("voxel", this.voxel);
    this.save();
    this.changed(event);
  }

  /* Tell Python when the reader has come to rest. */
  save() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => { try { this.model.save_changes(); } catch { /* no kernel to tell */ } }, 250);
  }

  follow() {
    this.onVoxel = () => {
      const wanted = this.model.get("voxel");
      if (wanted.some((index, axis) => index !== this.voxel[axis])) this.move(this.canonical(wanted));
    };
    this.onScans = () => {
      const wanted = this.model.get("scans");
      if (!same(wanted, this.facts.modalities)) this.choose(wanted);
    };
    this.model.on("change:voxel", this.onVoxel);
    this.model.on("change:scans", this.onScans);
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.pictures);
    this.onVoxel();
    this.onScans();
  }

  /* The canonical voxel of a voxel of the files: the matrix between them only permutes and mirrors. */
  canonical(voxel) {
    const matrix = this.summary.to_file;
    return [0, 1, 2].map((axis) => {
      const row = [0, 1, 2].find((one) => matrix[one][axis] !== 0);
      return (voxel[row] - matrix[row][3]) * matrix[row][axis];
    });
  }

  // ---- what part of a plane is seen, in millimetres from its upper left corner

  crossMm(plane) {
    return [plane.across, plane.up].map((axis) =>
      (this.summary.shape[axis] - 0.5 - this.at[axis]) * this.summary.spacing[axis]);
  }

  /* A plane with its pixels, their size, and as its frame the part around the box; what lies outside is black. */
  measured(plane) {
    const { shape, spacing, box } = this.summary, axes = [plane.across, plane.up];
    const [columns, rows] = axes.map((axis) => shape[axis]), [wide, high] = axes.map((axis) => spacing[axis]);
    const edges = axes.map((axis) => box[axis].map((index) => (shape[axis] - index) * spacing[axis]).reverse());
    const margin = 0.05 * Math.max(...edges.map(([from, to]) => to - from));
    const [x, y] = edges.map(([from, to]) => ({ from: from - margin, size: to - from + 2 * margin }));
    return { ...plane, columns, rows, wide, high, frame: { left: x.from, top: y.from, width: x.size, height: y.size } };
  }

  /* The planes with frames as wide (in a column) or as high (in a row) as those of the others. */
  framed(planes) {
    const widest = Math.max(...planes.map(({ frame }) => frame.width));
    const highest = Math.max(...planes.map(({ frame }) => frame.height));
    return planes.map((plane) => {
      const own = plane.frame, width = this.byPlane ? own.width : widest, height = this.byPlane ? highest : own.height;
      const left = own.left - (width - own.width) / 2, top = own.top - (height - own.height) / 2;
      return { ...plane, frame: { left, top, width, height } };
    });
  }

  aim() {
    for (const plane of this.planes) {
      const width = plane.frame.width / this.zoom, height = plane.frame.height / this.zoom, [x, y] = this.crossMm(plane);
      plane.view = { left: x - width / 2, top: y - height / 2, width, height };
    }
    this.keepInside();
  }

  /* Moves the views as little as needed: the crosshair is always seen, and nothing around the frame if possible. */
  keepInside() {
    for (const plane of this.planes.filter((one) => one.view)) {
      const { frame, view } = plane, [x, y] = this.crossMm(plane);
      const room = 0.02 * Math.min(view.width, view.height);
      view.left = clamp(view.left, frame.left, frame.left + frame.width - view.width);
      view.top = clamp(view.top, frame.top, frame.top + frame.height - view.height);
      view.left = clamp(view.left, x + room - view.width, x - room);
      view.top = clamp(view.top, y + room - view.height, y - room);
    }
  }

  // ---- panels

  panel(modality, plane) {
    const canvas = h("canvas", { tabIndex: 0, role: "img" });
    canvas.dataset.panel = `${modality.name}-${plane.name}`;
    const picture = h("canvas", { width: plane.columns, height: plane.rows });
    const pixels = picture.getContext("2d").createImageData(plane.columns, plane.rows);
    const panel = { modality, plane, canvas, picture, pixels, drawn: "" };
    const to = (event) => {
      const { view } = plane, at = [...this.at];
      at[plane.across] = plane.columns - 1 - Math.floor((view.left + event.offsetX / panel.scale) / plane.wide);
      at[plane.up] = plane.rows - 1 - Math.floor((view.top + event.offsetY / panel.scale) / plane.high);
      this.move(at, event);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      to(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) to(event); });
    canvas.addEventListener("dblclick", (event) => this.enlarge(panel, event));
    canvas.addEventListener("keydown", (event) => this.pressed(panel, event));
    canvas.addEventListener("wheel", (event) => {
      if (!this.root.contains(document.activeElement)) return;    // a page that is scrolled past is left alone
      event.preventDefault();
      this.step(plane.through, event.deltaY < 0 ? 1 : -1, event);
    }, { passive: false });
    return panel;
  }

  pressed(panel, event) {
    const { plane } = panel;
    const moves = { ArrowLeft: [plane.across, 1], ArrowRight: [plane.across, -1], ArrowUp: [plane.up, 1],
      ArrowDown: [plane.up, -1], PageUp: [plane.through, 1], PageDown: [plane.through, -1] };
    if (event.key === "Enter" || (event.key === "Escape" && this.single)) this.enlarge(panel, event);
    else if (moves[event.key]) this.step(...moves[event.key], event);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  step(axis, by, event) {
    const at = [...this.at];
    at[axis] += by;
    this.move(at, event);
  }

  enlarge(panel, event) {
    this.single = this.single ? null : panel;
    this.layout(event);
    panel.canvas.focus({ preventScroll: true });
  }

  /* Places all panels at one scale; as many as fit the width. */
  layout(event) {
    const width = this.pictures.clientWidth;
    if (!width) return;
    if (!this.planes[0].view) this.aim();
    const { byPlane, planes } = this, { modalities } = this.summary;
    const columns = byPlane ? planes.length : modalities.length;
    const total = byPlane ? planes.reduce((sum, { frame }) => sum + frame.width, 0) : columns * planes[0].frame.width;
    let scale = Math.min((width - GAP * (columns - 1) - 2) / total,
      TALLEST / Math.max(...planes.map(({ frame }) => frame.height)));
    if (this.single) {
      const { frame } = this.single.plane;
      scale = Math.min((width - 2) / frame.width, 640 / frame.height);
    }
    this.pictures.style.gridTemplateColumns = this.single ? "auto" : `repeat(${columns}, auto)`;
    for (const panel of this.panels) {
      const row = modalities.indexOf(panel.modality) + 1, column = planes.indexOf(panel.plane) + 1;
      const { canvas, plane: { frame } } = panel;
      canvas.hidden = Boolean(this.single) && panel !== this.single;
      canvas.style.gridArea = this.single ? "auto" : byPlane ? `${row} / ${column}` : `${column} / ${row}`;
      panel.width = Math.round(frame.width * scale);
      panel.height = Math.round(frame.height * scale);
      canvas.style.width = `${panel.width}px`;
      canvas.style.height = `${panel.height}px`;
      const dots = window.devicePixelRatio || 1;
      const size = [Math.round(panel.width * dots), Math.round(panel.height * dots)];
      if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    }
    this.changed(event);
  }

  // ---- drawing

  changed(event) {
    this.since ??= event?.timeStamp ?? performance.now();
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    const begun = performance.now();
    const style = getComputedStyle(this.root);
    this.style = { ground: style.getPropertyValue("--ground").trim() || "#fff", line: "rgba(128,128,128,0.55)",
      text: style.color, font: style.fontFamily };
    this.outlined = new Set();
    for (const panel of this.panels) if (!panel.canvas.hidden) this.drawPanel(panel);
    this.drawKey();
    this.drawTable();
    this.drawPosition();
    const ended = performance.now();
    const detail = { draw_ms: ended - begun, since_input_ms: ended - this.since };
    this.since = null;
    this.root.dispatchEvent(new CustomEvent("maml-explorer-drawn", { detail, bubbles: true }));
  }

  drawPosition() {
    const mm = this.millimetres;
    const places = mm.map((value, axis) => `${AXES[axis].signs[value >= 0 ? 1 : 0]} ${Math.abs(value).toFixed(1)}`);
    this.position.textContent = `${places.join(", ")} mm · file voxel (${this.voxel.join(", ")})`;
    this.sliders.forEach(({ input, value, reversed, last }, axis) => {
      input.value = reversed ? last - this.at[axis] : this.at[axis];
      value.textContent = places[axis];
      input.setAttribute("aria-valuetext", `${places[axis]} mm`);
    });
  }

  /* Why a modality has no picture, as lines; null where it has one. */
  absence(modality) {
    if (!modality.present) return [modality.name, "not acquired"];
    return this.facts.modalities.includes(modality.name) ? null : [modality.name, "left out"];
  }

  drawPanel(panel) {
    const { canvas, plane, modality } = panel, { view, wide, high } = plane;
    const context = canvas.getContext("2d");
    const dots = canvas.width / panel.width;
    context.setTransform(dots, 0, 0, dots, 0, 0);
    panel.scale = panel.width / view.width;
    const why = this.absence(modality);
    canvas.setAttribute("aria-label", `${modality.name}, ${plane.name}${why ? `: ${why[1]}` : ""}`);
    canvas.classList.toggle("absent", Boolean(why));
    if (why) {
      hatch(context, panel.width, panel.height, why, this.style);
      return;
    }
    this.compose(panel);
    context.fillStyle = "#000";
    context.fillRect(0, 0, panel.width, panel.height);
    context.imageSmoothingEnabled = this.map === "none" && panel.scale * Math.min(wide, high) < 4;
    context.drawImage(panel.picture, view.left / wide, view.top / high, view.width / wide, view.height / high,
      0, 0, panel.width, panel.height);
    this.drawContours(context, panel, dots);
    this.drawCross(context, panel);
    this.drawLetters(context, panel);
  }

  /* The slice of a panel in voxels: the image with the map over it. */
  compose(panel) {
    const { plane, modality, pixels } = panel;
    const index = this.at[plane.through];
    const key = [index, this.chosen, this.brightness[scaleOf(modality)]].join();
    if (panel.drawn === key) return;
    panel.drawn = key;
    const out = new Uint32Array(pixels.data.buffer), { columns, rows } = plane;
    const image = this.arrays.of(`image/${modality.name}`), grey = greys(modality, this.brightness);
    const placeOf = this.imageAt.inSlice(plane, index), paint = this.painter(modality, plane, index);
    for (let j = rows - 1, pixel = 0; j >= 0; j--) {
      for (let i = columns - 1; i >= 0; i--, pixel++) {
        const place = placeOf(i, j), g = grey(image[place]);
        out[pixel] = paint?.(i, j, place, g) ?? over(g, 0, 0, 0, 0);
      }
    }
    panel.picture.getContext("2d").putImageData(pixels, 0, 0);
  }

  /* A function that lays the chosen map over a grey pixel, or gives null; null itself where this modality has none. */
  painter(modality, plane, index) {
    if (this.map === "difference") return this.answer ? this.painterOfChanges(plane, index) : null;
    const { signal, opacity, isSigned, colours, answer } = this;
    if (this.map === "none" || !this.facts[isSigned ? "contributions" : this.map].includes(modality.name)) return null;
    const of = this.map === "uncertainty" ? "" : `/${modality.name}`;
    const values = this.arrays.of(`${this.map}/${answer}${of}`);
    const placeOf = this.mapAt.inSlice(plane, index);
    const share = isSigned ? this.shareIn(values, plane, index) : null;
    const gain = isSigned ? this.facts.step * 127.5 / this.limit() : 1;
    return (i, j, place, g) => {
      const at = placeOf(i, j);
      if (at < 0 || (signal && !signal[place])) return null;
      const value = isSigned ? share(at, i, j) * gain : values[at];
      const shade = isSigned ? clamp(Math.round(127.5 + value), 0, 255) : value;
      const alpha = isSigned ? opacity * fade(value / 127.5) : opacity;
      return over(g, colours[3 * shade], colours[3 * shade + 1], colours[3 * shade + 2], alpha);
    };
  }

  painterOfChanges(plane, index) {
    const before = this.arrays.of("classes/0"), now = this.arrays.of(`classes/${this.answer}`);
    const placeOf = this.classAt.inSlice(plane, index);
    return (i, j, place, g) => {
      const at = placeOf(i, j);
      if (at < 0 || before[at] === now[at]) return null;
      const change = CHANGES.find(({ tells }) => tells(before[at], now[at]));
      return over(g, ...rgb(this.summary.changes[change.name]), this.opacity);
    };
  }

  /* The weights of the classes at a place of an answer's maps; one for all places where it is one class against one. */
  weightsAt(contrast, place, answer = this.answer) {
    const { contributions, bias, step } = this.summary.answers[answer];
    if (contrast.linear) return bias.map((_, k) => (k === contrast.over[0]) - (k === contrast.under[0]));
    const arrays = contributions.map((name) => this.arrays.of(`contribution/${answer}/${name}`));
    const change = bias.map((_, k) => step * arrays.reduce((sum, one) => sum + one[k * this.mapSize + place], 0));
    return signedWeights(contrast, bias.map((one) => one * step), change);
  }

  /* A function (place, i, j) -> the share of a scan with these terms, in steps. All scans of a slice have its weights. */
  shareIn(terms, plane, index) {
    const contrast = this.contrast(), size = this.mapSize, count = this.summary.channels;
    if (contrast.linear) {
      const [over, under] = [contrast.over[0] * size, contrast.under[0] * size];
      return (place) => terms[over + place] - terms[under + place];
    }
    const { columns, rows } = plane, state = [index, this.answer, contrast.name, contrast.against].join();
    let kept = this.weights.get(plane.name);
    if (kept?.state !== state) {
      kept = { state, known: new Uint8Array(columns * rows) };
      kept.values = new Float32Array(kept.known.length * count);
      this.weights.set(plane.name, kept);
    }
    return (place, i, j) => {
      const pixel = j * columns + i;
      if (!kept.known[pixel]) {
        kept.values.set(this.weightsAt(contrast, place), pixel * count);
        kept.known[pixel] = 1;
      }
      let sum = 0;
      for (let k = 0; k < count; k++) sum += kept.values[pixel * count + k] * terms[k * size + place];
      return sum;
    };
  }

  /* The 99.5 percentile of the size of the shares, of the scan where it is largest: one range for all subsets. */
  limit() {
    const contrast = this.contrast(), key = `${contrast.name} ${contrast.against}`;
    if (!this.limits.has(key)) {
      const answer = this.summary.answers[0].contributions.length ? 0 : this.answer;
      const { contributions, step } = this.summary.answers[answer], every = Math.ceil(this.mapSize / 20000);
      const found = contributions.map(() => new Float32Array(Math.floor(this.mapSize / every)));
      const terms = contributions.map((name) => this.arrays.of(`contribution/${answer}/${name}`));
      for (let i = 0; i < found[0].length; i++) {
        const weights = this.weightsAt(contrast, i * every, answer);
        terms.forEach((one, number) => {
          found[number][i] = Math.abs(weights.reduce((sum, w, k) => sum + w * one[k * this.mapSize + i * every], 0));
        });
      }
      this.limits.set(key, step * Math.max(...found.map((one) => one.sort()[Math.floor(0.995 * (one.length - 1))])));
    }
    return Math.max(this.limits.get(key) * this.range, 1e-6);
  }

  /* The class of each pixel of a slice that a source shows. */
  classesIn(plane, source) {
    const isTruth = source === "truth", { columns, rows } = plane, found = new Uint8Array(columns * rows);
    const values = this.arrays.of(isTruth ? "truth" : `classes/${this.answer}`);
    const placeOf = (isTruth ? this.imageAt : this.classAt).inSlice(plane, this.at[plane.through]);
    for (let j = rows - 1, pixel = 0; j >= 0; j--) {
      for (let i = columns - 1; i >= 0; i--, pixel++) {
        const place = placeOf(i, j);
        if (place >= 0) found[pixel] = values[place];
      }
    }
    return found;
  }

  /* Outlines of each region in a slice, kept until the slice or the answer changes. */
  outlinesIn(plane, source) {
    const key = `${plane.name} ${source}`, state = `${this.at[plane.through]} ${source === "truth" ? "" : this.answer}`;
    const kept = this.outlines.get(key);
    if (kept?.state === state) return kept.paths;
    const classes = this.classesIn(plane, source), mask = new Uint8Array(classes.length);
    const paths = this.summary.regions.map((region) => {
      const inside = Uint8Array.from({ length: 256 }, (_, one) => region.classes.includes(one) ? 1 : 0);
      for (let i = 0; i < mask.length; i++) mask[i] = inside[classes[i]];
      return outline(mask, plane, this.scratch);
    });
    this.outlines.set(key, { state, paths });
    return paths;
  }

  /* One region has the colours of whose outline it is; of several each has its own, solid of the truth, dashed of the
   * prediction. What lies below others is wider, so that each is seen where several run along one edge. */
  drawContours(context, panel, dots) {
    context.save();
    const scale = panel.scale * dots, { view } = panel.plane;
    context.setTransform(scale, 0, 0, scale, -view.left * scale, -view.top * scale);
    context.lineJoin = "round";
    const sources = Object.keys(LABELS).filter((source) => this.shown[source]);
    const lines = this.summary.regions.flatMap((region, number) => sources.map((source) => ({
      ...region, source, path: this.outlinesIn(panel.plane, source)[number],
      width: 1.3 + (this.oneRegion ? source === "truth" : region.below) })));
    for (const { name, colour, source, path, width } of lines.sort((one, other) => other.width - one.width)) {
      if (!path || !this.regions.has(name)) continue;
      this.outlined.add(name).add(source);
      context.setLineDash(source === "truth" ? [] : [(3 + width) / panel.scale, (2 + width) / panel.scale]);
      if (this.oneRegion || source === "prediction") {
        context.lineWidth = (width + 1) / panel.scale;
        context.strokeStyle = "rgba(0,0,0,0.7)";
        context.stroke(path);
      }
      context.lineWidth = width / panel.scale;
      context.strokeStyle = this.oneRegion ? this.summary.sources[source] : colour;
      context.stroke(path);
    }
    context.restore();
  }

  drawCross(context, panel) {
    const [mmX, mmY] = this.crossMm(panel.plane), { view } = panel.plane;
    const [x, y] = [(mmX - view.left) * panel.scale, (mmY - view.top) * panel.scale];
    const hole = 7;
    context.strokeStyle = "rgba(255,255,255,0.6)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - hole], [x + hole, panel.width]]) { context.moveTo(from, y); context.lineTo(to, y); }
    for (const [from, to] of [[0, y - hole], [y + hole, panel.height]]) { context.moveTo(x, from); context.lineTo(x, to); }
    context.stroke();
  }

  drawLetters(context, panel) {
    const { width, height, plane, modality, scale } = panel;
    const [small, bold, tiny] = ["11px", "600 12px", "10px"].map((size) => `${size} ${this.style.font}`);
    Object.assign(context, { lineJoin: "round", textBaseline: "middle", font: bold });
    const beside = context.measureText(modality.name).width + 15;
    haloed(context, plane.letters[0], 4, height / 2, "left", small);
    haloed(context, plane.letters[1], width - 4, height / 2, "right", small);
    haloed(context, plane.letters[3], width / 2, height - 8, "center", small);
    haloed(context, plane.letters[2], Math.max(width / 2, beside), 9, "center", small);
    haloed(context, modality.name, 5, 10, "left", bold);
    const bar = barLength(plane.view.width), right = width - 6, left = right - bar * scale;
    for (const [lineWidth, strokeStyle] of [[4, HALO], [2, "#fff"]]) {
      Object.assign(context, { lineWidth, strokeStyle });
      context.beginPath();
      context.moveTo(left, height - 6);
      context.lineTo(right, height - 6);
      context.stroke();
    }
    haloed(context, `${bar} mm`, right, height - 15, "right", tiny);
  }

  // ---- what the colours mean

  keyTexts() {
    if (this.map === "attention") return { note: ATTENTION_NOTE, low: "0", high: "1", label: "attention" };
    if (this.map === "uncertainty") {
      return { note: UNCERTAINTY_NOTE, low: "0", high: this.summary.most_nats.toFixed(2), label: "uncertainty (nats)" };
    }
    if (this.isSigned) {
      const limit = this.limit().toFixed(2), { name, against, linear } = this.contrast();
      return { low: `−${limit}`, high: `+${limit}`, label: `share in the log-odds of ${name} against ${against}`,
        note: `Red: this scan makes ${name} more likely than ${against}; blue: less likely; colours fade towards 0. One ` +
          `range for all scans and all subsets; stronger values have the colours of its ends. ${linear ? "" : NOT_LINEAR}` };
    }
    if (this.map === "difference" && this.answer === 0) {
      return { note: `This is the answer from ${this.whole()}: untick a scan to see what changes.` };
    }
    return {};
  }

  drawKey() {
    const state = [this.chosen, this.style.text].join();
    if (this.keyDrawn === state) return;
    this.keyDrawn = state;
    const { note, low, high, label } = this.keyTexts();
    const parts = [];
    if (label) parts.push(h("div", { className: "row" }, h("span", { textContent: low }), this.bar(), h("span", { textContent: high }),
      h("span", { textContent: label })));
    if (this.answer) parts.push(this.changeKey());
    if (note) parts.push(h("p", { className: "hint", textContent: note }));
    this.key.replaceChildren(...parts);
  }

  bar() {
    const canvas = h("canvas", { width: 160, height: 10, className: "bar", role: "img", "aria-label": "colour scale" });
    const context = canvas.getContext("2d");
    const { isSigned, colours } = this;
    context.fillStyle = "#555";
    context.fillRect(0, 0, 160, 10);
    for (let x = 0; x < 160; x++) {
      const shade = Math.round(x / 159 * 255);
      context.globalAlpha = isSigned ? this.opacity * fade(shade / 127.5 - 1) : this.opacity;
      context.fillStyle = `rgb(${colours.slice(3 * shade, 3 * shade + 3).join()})`;
      context.fillRect(x, 0, 1, 10);
    }
    return canvas;
  }

  changeKey() {
    const millilitres = this.summary.spacing.reduce((product, mm) => product * mm, 1) / 1000;
    const counts = this.counted();
    const items = CHANGES.map(({ name }, number) => h("span", { className: "item" }, swatch(this.summary.changes[name]),
      `${name} ${(counts[number] * millilitres).toFixed(2)} mL`));
    return h("div", { className: "row changes" },
      h("span", { textContent: `From ${joined(this.facts.modalities)} instead of ${this.whole()}, lesion:` }), ...items);
  }

  /* Voxels of each kind of change against the whole answer. */
  counted() {
    if (!this.changes.has(this.answer)) {
      const before = this.arrays.of("classes/0"), now = this.arrays.of(`classes/${this.answer}`), counts = [0, 0, 0];
      for (let i = 0; i < before.length; i++) {
        if (before[i] !== now[i]) counts[CHANGES.findIndex(({ tells }) => tells(before[i], now[i]))]++;
      }
      this.changes.set(this.answer, counts);
    }
    return this.changes.get(this.answer);
  }

  // ---- the table

  /* Everything known of the voxel at the crosshair; maps are null outside of the box. */
  values() {
    const { summary, facts, answer } = this;
    const place = this.mapAt.at(this.at), inside = place >= 0;
    const at = this.imageAt.at(this.at), exact = this.classAt.at(this.at);
    const present = summary.modalities.filter((one) => !this.absence(one));
    return {
      inside, rows: inside ? this.rowsAt(place) : [],
      predicted: exact < 0 ? 0 : this.arrays.of(`classes/${answer}`)[exact],
      truth: summary.truth ? this.arrays.of("truth")[at] : null,
      nats: inside && facts.uncertainty.length ?
        this.arrays.of(`uncertainty/${answer}`)[place] / 255 * summary.most_nats : null,
      attention: Object.fromEntries(inside ? facts.attention.map((name) =>
        [name, this.arrays.of(`attention/${answer}/${name}`)[place] / 255]) : []),
      intensity: Object.fromEntries(present.map((one) => {
        const code = this.arrays.of(`image/${one.name}`)[at];
        return [one.name, one.kind === "mr" && code === 0 ? 0 : one.low + one.step * code];
      })),
    };
  }

  /* The log-odds of each class or region at a place of the maps, and of what they are the sum. */
  rowsAt(place) {
    const { summary, facts, answer } = this, { step, bias } = facts;
    const of = (name) => Array.from({ length: summary.channels }, (_, k) =>
      step * this.arrays.of(name)[k * this.mapSize + place]);
    const scans = facts.contributions.map((name) => [name, of(`contribution/${answer}/${name}`)]);
    const alone = bias?.map((one) => one * step);
    const logits = facts.sums ? scans.reduce((sum, [, one]) => sum.map((value, k) => value + one[k]), alone) :
      of(`logits/${answer}`);
    return summary.sides.map(({ name, against }) => {
      const contrast = name === this.classChoice.value ? this.contrast() : this.contrast(name, against);
      const weights = alone ? this.weightsAt(contrast, place) : [], all = logOdds(contrast, logits);
      return {
        name, against: contrast.against, logOdds: all, bias: alone ? logOdds(contrast, alone) : null,
        contributions: Object.fromEntries(scans.map(([scan, one]) =>
          [scan, one.reduce((sum, value, k) => sum + weights[k] * value, 0)])),
        probability: summary.exclusive ? Math.exp(lse(contrast.over.map((k) => logits[k])) - lse(logits)) :
          1 / (1 + Math.exp(-all)),
      };
    });
  }

  /* The row of the chosen class in a sentence. */
  said({ name, probability, contributions, bias, logOdds }) {
    const plus = (value) => value < 0 ? signed(value, 1) : `+${value.toFixed(1)}`;
    const terms = Object.entries(!this.facts.sums ? {} : { ...contributions, ...(bias === null ? {} : { bias }) })
      .map(([term, value]) => `${term} ${plus(value)}`);
    return `Here: ${name} ${probability.toFixed(2)}; ${terms.join(", ") || plus(logOdds)} log-odds`;
  }

  drawTable() {
    const found = this.values(), names = this.summary.modalities.map(({ name }) => name);
    const cell = (text, className = "") => h("td", { textContent: text ?? "–", className });
    const head = (text, scope, className = "") => h("th", { textContent: text, scope, className });
    const one = (value, digits = 3) => value == null ? null : signed(value, digits);
    const predicted = found.predicted || this.summary.exclusive ? this.summary.named[found.predicted] : null;
    const classRow = (row) => h("tr", { className: row.name === predicted ? "predicted" : "" },
      head(row.name, "row"), head(row.against, "row", "against"), ...names.map((name) => cell(one(row.contributions[name]))),
      cell(one(row.bias)), cell(one(row.logOdds), "strong"), cell(row.probability.toFixed(3)));
    const other = (label, values, digits, first) => h("tr", { className: first ? "other first" : "other" }, head(label, "row"),
      h("td"), ...names.map((name) => cell(one(values[name], digits(values[name])))), h("td", { colSpan: 3, className: "empty" }));
    this.table.replaceChildren(
      h("thead", {}, h("tr", {}, head("class", "col"), head("against", "col", "against"), ...names.map((name) => head(name, "col")),
        head("bias", "col"), head("log-odds", "col"), head("probability", "col"))),
      h("tbody", {}, ...found.rows.map(classRow), other("attention", found.attention, () => 2, true),
        other("intensity", found.intensity, (value) => Math.abs(value) < 10 && value % 1 ? 3 : 0, false)));
    const row = found.rows.find(({ name }) => name === this.classChoice.value);
    this.here.textContent = row ? this.said(row) : "";
    this.note.textContent = this.noted(found);
  }

  /* What was found at the crosshair, and what the table's log-odds are. */
  noted({ inside, predicted, nats, truth }) {
    const { classes, every } = this.summary;
    const told = [`Predicted: ${classes[predicted]}`, nats === null ? "" : `uncertainty ${nats.toFixed(2)} nats`,
      truth === null ? "" : `ground truth: ${classes[truth] ?? "not labelled"}`].filter(Boolean).join(", ");
    if (!inside) return `${told}. No scan has a signal here, so the network is not run: background.`;
    const { sums, contributions } = this.facts;
    const why = sums ? "The log-odds, log p minus log p of what stands against it, are the sum of the shares of the " +
      "scans and of the bias." : contributions.length ?
      "The answer is mixed by size: contributions and bias are those of its fused part alone." :
      "This method's log-odds are no sum over the scans, so there are no contributions.";
    return `${told}. ${why}${every > 1 ? ` Maps are those of a voxel at most ${every - 1} away.` : ""}`;
  }

  // ---- saving

  fileName(ending) { return `${this.summary.case}_${this.voxel.join("-")}_${this.facts.modalities.join("+")}.${ending}`; }

  download(blob, name) {
    const link = h("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  saveTable() {
    const found = this.values(), names = this.summary.modalities.map(({ name }) => name);
    const quoted = (value) => /[",;\t\r\n]|^\s|\s$/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value ?? "";
    const columns = ["case", "scans", "i", "j", "k", "x_mm", "y_mm", "z_mm", "class", "against",
      ...names.map((name) => `contribution_${name}`), "bias", "log_odds", "probability",
      ...names.map((name) => `attention_${name}`), ...names.map((name) => `intensity_${name}`)];
    const fixed = (value, digits) => value?.toFixed(digits) ?? "";
    const lines = found.rows.map((row) => [this.summary.case, this.facts.modalities.join("+"), ...this.voxel,
      ...this.millimetres.map((mm) => mm.toFixed(2)), row.name, row.against,
      ...names.map((name) => fixed(row.contributions[name], 3)), fixed(row.bias, 3), fixed(row.logOdds, 3),
      fixed(row.probability, 6), ...names.map((name) => fixed(found.attention[name], 3)),
      ...names.map((name) => fixed(found.intensity[name], Math.abs(found.intensity[name]) < 10 ? 3 : 1))]);
    const text = [columns, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n");
    this.download(new Blob([`${text}\r\n`], { type: "text/csv" }), this.fileName("csv"));
  }

  savePicture() {
    const dots = window.devicePixelRatio || 1;
    const [width, height] = [this.pictures.clientWidth, this.pictures.clientHeight];
    const canvas = h("canvas", { width: (width + 16) * dots, height: (height + 84) * dots });
    const context = canvas.getContext("2d");
    context.scale(dots, dots);
    context.fillStyle = this.style.ground;
    context.fillRect(0, 0, width + 16, height + 84);
    Object.assign(context, { fillStyle: this.style.text, font: `13px ${this.style.font}`, textBaseline: "middle" });
    context.fillText(`${this.title.textContent}, from ${joined(this.facts.modalities)} · ${this.position.textContent}`, 8, 14);
    for (const { canvas: panel } of this.panels.filter((one) => !one.canvas.hidden)) {
      const from = this.pictures.getBoundingClientRect(), at = panel.getBoundingClientRect();
      context.drawImage(panel, 8 + at.left - from.left, 28 + at.top - from.top, panel.clientWidth, panel.clientHeight);
    }
    this.saveKey(context, height + 44);
    this.saveSources(context, height + 67);
    canvas.toBlob((blob) => this.download(blob, this.fileName("png")));
  }

  /* What the colours of the map mean, in a line of a picture. */
  saveKey(context, y) {
    const { note, low, high, label } = this.keyTexts();
    if (label) {
      const x = written(context, low, 8, y);
      context.drawImage(this.bar(), x, y - 5);
      written(context, `${high}   ${label}`, x + 168, y);
    } else if (note) written(context, note, 8, y);
    else if (this.map === "difference") {
      const x = written(context, `From ${joined(this.facts.modalities)} instead of ${this.whole()}:`, 8, y);
      CHANGES.reduce((at, { name }) => this.saveSwatch(context, { name, colour: this.summary.changes[name] }, at, y), x);
    }
  }

  /* What is outlined, in a line of a picture. */
  saveSources(context, y) {
    const drawn = Object.keys(LABELS).filter((source) => this.outlined.has(source));
    const swatches = this.oneRegion ? drawn.map((source) => ({ name: LABELS[source], colour: this.summary.sources[source] })) :
      this.summary.regions.filter((one) => this.outlined.has(one.name));
    const x = swatches.reduce((at, one) => this.saveSwatch(context, one, at, y), 8);
    const styles = drawn.map((source) => `${LABELS[source]} ${source === "truth" ? "solid" : "dashed"}`);
    written(context, styles.join(", "), x, y);
  }

  /* A colour with its name; where the next may stand. */
  saveSwatch(context, { name, colour }, x, y) {
    context.fillStyle = colour;
    context.fillRect(x, y - 6, 12, 12);
    context.strokeStyle = this.style.line;
    context.strokeRect(x, y - 6, 12, 12);
    context.fillStyle = this.style.text;
    return written(context, name, x + 16, y);
  }

  end() {
    this.observer?.disconnect();
    this.model.off("change:voxel", this.onVoxel);
    this.model.off("change:scans", this.onScans);
    cancelAnimationFrame(this.waiting);
  }
}

export default {
  async render({ model, el }) {
    const explorer = new Explorer(model, el);
    try {
      await explorer.start();
    } catch (error) {
      explorer.root.replaceChildren(h("p", { className: "message", role: "alert", textContent: error.message }));
      throw error;
    }
    return () => explorer.end();
  },
};
