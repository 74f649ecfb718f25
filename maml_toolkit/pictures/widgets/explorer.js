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

/* Where each index of an axis lies in an array of the box that holds every n-th voxel; -1 outside. */
function offsets(summary, axis, shape, every) {
  const stride = shape.slice(0, axis).reduce((product, size) => product * size, 1);
  const [start, stop] = summary.box[axis];
  return Int32Array.from({ length: summary.shape[axis] }, (_, index) => index < start || index >= stop ? -1 :
    Math.min(Math.floor((index - start) / every), shape[axis] - 1) * stride);
}

/* A function (x, y, z) -> position in arrays of the box, -1 outside. */
function places(summary, shape, every) {
  const axes = [0, 1, 2].map((axis) => offsets(summary, axis, shape, every));
  const at = (x, y, z) => axes[0][x] < 0 || axes[1][y] < 0 || axes[2][z] < 0 ? -1 : axes[0][x] + axes[1][y] + axes[2][z];
  return { axes, at };
}

function times(matrix, [x, y, z]) {
  return matrix.slice(0, 3).map(([a, b, c, d]) => a * x + b * y + c * z + d);
}

// ---- pictures --------------------------------------------------------------------------------------------------

/* The grey of each intensity code of a modality. */
/* Whether brightness is in HU or in percentiles. */
function scaleOf(modality) { return modality.kind === "ct" ? "ct" : "mr"; }

function greys(modality, brightness) {
  let [low, high] = [0, 1];
  if (modality.kind === "ct") {
    const [level, width] = brightness.ct;
    [low, high] = [level - width / 2, level + width / 2];
  } else {
    const at = (percent) => {
      const place = clamp(percent, 0, 100) * 2, below = Math.floor(place), above = Math.ceil(place);
      return modality.percentiles[below] + (place - below) * (modality.percentiles[above] - modality.percentiles[below]);
    };
    [low, high] = brightness.mr.map(at);
  }
  const gain = 255 / Math.max(high - low, 1e-6), { low: zero, step } = modality;
  if (modality.kind === "ct") return (code) => clamp(Math.round((code - low) * gain), 0, 255);
  const table = Uint8ClampedArray.from({ length: 256 }, (_, code) => code || modality.kind !== "mr" ? (zero + step * code - low) * gain : 0);
  return (code) => table[code];
}

/* Closed outlines of a mask (width x height), through the middles of the pixels' edges, in millimetres. */
function outline(mask, width, height, [wide, high], scratch) {
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

function haloed(context, text, x, y) {
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
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
    this.single = null;
    this.outlines = new Map();
    this.changes = new Map();
    this.weights = new Map();
    this.limits = new Map();
    this.since = null;
    this.asked = 0;
    const largest = Math.max(...this.summary.shape) + 2;
    this.scratch = { first: new Int32Array(largest * largest), second: new Int32Array(largest * largest) };
    this.classAt = places(this.summary, this.arrays.shape("classes/0"), 1);
    const maps = this.arrays.shape(Object.keys(this.summary.arrays).find((name) => /^(contribution|logits)\//.test(name)));
    this.mapAt = places(this.summary, maps, this.summary.every);
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

  get mostNats() { return this.summary.most_nats; }

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
    this.panels = summary.modalities.flatMap((modality) => PLANES.map((plane) => this.panel(modality, plane)));
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
      const box = h("input", { type: "checkbox", disabled: !present, name: `scan-${name}` });
      box.addEventListener("change", () => this.choose(this.ticked(), box));
      return { name, box, label: h("label", { title: present ? "" : "not acquired" }, box, name) };
    });
    const acquired = summary.modalities.filter((one) => one.present).length;
    const children = [h("p", { className: "hint", textContent: "Untick a scan: what if it were missing?" }),
      h("div", { className: "row" }, ...this.scanBoxes.map(({ label }) => label))];
    this.subsetChoice = h("select", {}, ...summary.answers.map((one, number) =>
      h("option", { value: number, textContent: joined(one.modalities) })));
    this.subsetChoice.addEventListener("change", () =>
      this.choose(summary.answers[this.subsetChoice.value].modalities, this.subsetChoice));
    if (summary.answers.length > 1 && summary.answers.length < 2 ** acquired - 1) {
      children.push(h("label", {}, "Computed", this.subsetChoice));
    }
    return this.group("Scans used", ...children);
  }

  mapControls() {
    const { summary } = this;
    const has = (kind) => summary.answers.some((one) => one[kind].length);
    this.mapChoice = h("select", { name: "map" },
      h("option", { value: "none", textContent: "none" }),
      h("option", { value: "attention", textContent: "attention", disabled: !has("attention") }),
      h("option", { value: "contribution", textContent: "contribution", disabled: !has("contributions") }),
      h("option", { value: "uncertainty", textContent: "uncertainty", disabled: !has("uncertainty") }),
      h("option", { value: "difference", textContent: "change",
        disabled: summary.answers.length < 2 }));
    this.mapChoice.addEventListener("change", (event) => {
      this.map = this.mapChoice.value;
      this.refreshControls();
      this.layout(event);
    });
    const options = (sides) => sides.map(({ name }) => h("option", { value: name, textContent: name }));
    this.classChoice = h("select", { name: "class" }, ...options(summary.sides.filter(({ name }) => name !== summary.classes[0])));
    this.againstChoice = h("select", { name: "against" }, ...options(summary.against.map((name) => ({ name }))));
    const place = this.classAt.at(...this.at);
    this.classChoice.value = summary.named[place < 0 ? 1 : this.arrays.of("classes/0")[place] || 1];
    this.classChoice.addEventListener("change", (event) => { this.againstUsual(); this.changed(event); });
    this.againstChoice.addEventListener("change", (event) => this.changed(event));
    this.againstUsual();
    this.opacityChoice = h("input", { type: "range", name: "opacity", min: 0, max: 1, step: 0.05, value: this.opacity });
    this.opacityChoice.addEventListener("input", (event) => {
      this.opacity = Number(this.opacityChoice.value);
      this.changed(event);
    });
    this.rangeChoice = h("input", { type: "range", name: "range", min: -2, max: 2, step: 0.25, value: 0 });
    this.rangeChoice.addEventListener("input", (event) => {
      this.range = 2 ** Number(this.rangeChoice.value);
      this.changed(event);
    });
    this.rangeRow = h("label", { className: "line" }, h("span", { textContent: "Range" }), this.rangeChoice);
    this.classRow = h("label", { className: "line" }, h("span", { textContent: "Log-odds of" }), this.classChoice);
    this.againstRow = h("label", { className: "line" }, h("span", { textContent: "against" }), this.againstChoice);
    this.opacityRow = h("label", { className: "line" }, h("span", { textContent: "Opacity" }), this.opacityChoice);
    const lacking = ["attention", "contributions"].filter((kind) => !has(kind));
    const why = lacking.length ? [h("p", { className: "hint", textContent: `No ${lacking.join(" and no ")} here: the ` +
      "method has none, or the prediction was made without (attention=True, contributions=True)." })] : [];
    return this.group("Map over the scans", h("label", { className: "line" }, h("span", { textContent: "Map" }),
      this.mapChoice), this.classRow, this.againstRow, this.rangeRow, this.opacityRow, ...why);
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
    const box = (label, checked, set, mark) => {
      const input = h("input", { type: "checkbox", checked, name: `contour-${label}` });
      input.addEventListener("change", (event) => { set(input.checked); this.changed(event); });
      return h("label", {}, input, mark, label);
    };
    const line = (source) => {
      const mark = h("span", { className: `stroke ${source}`, "aria-hidden": "true" });
      if (this.oneRegion) mark.style.borderColor = this.summary.sources[source];
      return mark;
    };
    const sources = Object.keys(LABELS).filter((name) => name !== "truth" || this.summary.truth)
      .map((name) => box(LABELS[name], true, (on) => { this.shown[name] = on; }, line(name)));
    const regions = this.oneRegion ? [] : this.summary.regions.map(({ name, colour }) => {
      const swatch = h("span", { className: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour;
      return box(name, true, (on) => { this.regions[on ? "add" : "delete"](name); }, swatch);
    });
    return this.group("Contours", h("div", { className: "row" }, ...sources), h("div", { className: "row" }, ...regions));
  }

  positionControls() {
    this.sliders = AXES.map(({ label, reversed }, axis) => {
      const last = this.summary.shape[axis] - 1;
      const input = h("input", { type: "range", name: `axis-${axis}`, min: 0, max: last, step: 1 });
      const value = h("output");
      input.addEventListener("input", (event) => {
        const at = [...this.at];
        at[axis] = reversed ? last - Number(input.value) : Number(input.value);
        this.move(at, event);
      });
      return { input, value, reversed, last, row: h("label", { className: "line" }, h("span", { textContent: label }), input, value) };
    });
    this.zoomChoice = h("input", { type: "range", name: "zoom", min: 1, max: 6, step: 0.25, value: 1 });
    this.zoomChoice.addEventListener("input", (event) => {
      this.zoom = Number(this.zoomChoice.value);
      this.aim();
      this.changed(event);
    });
    return this.group("Position", ...this.sliders.map(({ row }) => row),
      h("label", { className: "line" }, h("span", { textContent: "Zoom" }), this.zoomChoice));
  }

  brightnessControls() {
    const kinds = new Set(this.summary.modalities.filter((one) => one.present).map(scaleOf));
    const range = (label, kind, number, min, max, step, name) => {
      const input = h("input", { type: "range", name, min, max, step, value: this.brightness[kind][number] });
      const value = h("output");
      const show = () => {
        input.value = this.brightness[kind][number];
        value.textContent = kind === "mr" ? `${this.brightness[kind][number]} %` : `${this.brightness[kind][number]} HU`;
      };
      input.addEventListener("input", (event) => {
        this.brightness[kind][number] = Number(input.value);
        show();
        this.changed(event);
      });
      show();
      return { show, row: h("label", { className: "line" }, h("span", { textContent: label }), input, value) };
    };
    const rows = [];
    if (kinds.has("mr")) {
      rows.push(range("Black at", "mr", 0, 0, 50, 0.5, "black").row, range("White at", "mr", 1, 50, 100, 0.5, "white").row);
    }
    if (kinds.has("ct")) {
      const both = [range("Level", "ct", 0, -1000, 2000, 5, "level"), range("Width", "ct", 1, 1, 3000, 5, "width")];
      const choices = { "as first shown": [...this.brightness.ct], ...WINDOWS };
      const choice = h("select", { name: "window" }, ...Object.keys(choices).map((name) => h("option", { textContent: name })));
      choice.addEventListener("change", (event) => {
        this.brightness.ct = [...choices[choice.value]];
        both.forEach(({ show }) => show());
        this.changed(event);
      });
      rows.push(h("label", { className: "line" }, h("span", { textContent: "Window" }), choice), ...both.map(({ row }) => row));
    }
    return this.group(kinds.has("mr") ? "Brightness (percentiles)" : "Brightness", ...rows);
  }

  saveControls() {
    const button = (textContent, act) => {
      const node = h("button", { type: "button", textContent });
      node.addEventListener("click", act);
      return node;
    };
    return h("div", { className: "row buttons" }, button("Save picture", () => this.savePicture()),
      button("Save table", () => this.saveTable()));
  }

  refreshControls() {
    for (const { name, box } of this.scanBoxes) box.checked = this.facts.modalities.includes(name);
    this.subsetChoice.value = this.answer;
    this.mapChoice.value = this.map;
    this.classRow.hidden = this.againstRow.hidden = this.rangeRow.hidden = this.map !== "contribution";
    this.opacityRow.hidden = this.map === "none";
  }

  ticked() { return this.scanBoxes.filter(({ box }) => box.checked).map(({ name }) => name); }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
  }

  /* Show the answer from a subset of the scans, or say why that cannot be. */
  async choose(scans, node) {
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

  /* The part of a plane around the box; what lies outside of the volume is black. */
  around(plane) {
    const edges = [plane.across, plane.up].map((axis) => this.summary.box[axis].map((index) =>
      (this.summary.shape[axis] - index) * this.summary.spacing[axis]).reverse());
    const margin = 0.05 * Math.max(...edges.map(([from, to]) => to - from));
    const [x, y] = edges.map(([from, to]) => ({ from: from - margin, size: to - from + 2 * margin }));
    return { left: x.from, top: y.from, width: x.size, height: y.size };
  }

  /* The same, as wide (in a column) or as high (in a row) as that of the other planes. */
  frame(plane) {
    const frames = PLANES.map((one) => this.around(one)), own = frames[PLANES.indexOf(plane)];
    const width = this.byPlane ? own.width : Math.max(...frames.map((one) => one.width));
    const height = this.byPlane ? Math.max(...frames.map((one) => one.height)) : own.height;
    return { left: own.left - (width - own.width) / 2, top: own.top - (height - own.height) / 2, width, height };
  }

  aim() {
    this.views = PLANES.map((plane) => {
      const { width, height } = this.frame(plane), [x, y] = this.crossMm(plane);
      return { left: x - width / this.zoom / 2, top: y - height / this.zoom / 2, width: width / this.zoom, height: height / this.zoom };
    });
    this.keepInside();
  }

  /* Moves the views as little as needed: the crosshair is always seen, and nothing around the frame if possible. */
  keepInside() {
    this.views?.forEach((view, number) => {
      const full = this.frame(PLANES[number]), [x, y] = this.crossMm(PLANES[number]);
      const room = 0.02 * Math.min(view.width, view.height);
      view.left = clamp(view.left, full.left, full.left + full.width - view.width);
      view.top = clamp(view.top, full.top, full.top + full.height - view.height);
      view.left = clamp(view.left, x + room - view.width, x - room);
      view.top = clamp(view.top, y + room - view.height, y - room);
    });
  }

  // ---- panels

  panel(modality, plane) {
    const canvas = h("canvas", { tabIndex: 0, role: "img" });
    canvas.dataset.panel = `${modality.name}-${plane.name}`;
    const panel = { modality, plane, canvas, picture: document.createElement("canvas"), drawn: "" };
    const [columns, rows] = [plane.across, plane.up].map((axis) => this.summary.shape[axis]);
    Object.assign(panel.picture, { width: columns, height: rows });
    panel.pixels = panel.picture.getContext("2d").createImageData(columns, rows);
    const to = (event) => {
      const view = this.views[PLANES.indexOf(plane)], at = [...this.at];
      const mm = [view.left + event.offsetX / panel.scale, view.top + event.offsetY / panel.scale];
      [plane.across, plane.up].forEach((axis, number) => {
        at[axis] = this.summary.shape[axis] - 1 - Math.floor(mm[number] / this.summary.spacing[axis]);
      });
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
    if (!this.views) this.aim();
    const { byPlane } = this, { modalities } = this.summary;
    const frames = PLANES.map((plane) => this.frame(plane));
    const columns = byPlane ? PLANES.length : modalities.length;
    const total = byPlane ? frames.reduce((sum, { width: one }) => sum + one, 0) :
      columns * Math.max(...frames.map((one) => one.width));
    let scale = Math.min((width - GAP * (columns - 1) - 2) / total, TALLEST / Math.max(...frames.map((one) => one.height)));
    if (this.single) {
      const frame = frames[PLANES.indexOf(this.single.plane)];
      scale = Math.min((width - 2) / frame.width, 640 / frame.height);
    }
    this.pictures.style.gridTemplateColumns = this.single ? "auto" : `repeat(${columns}, auto)`;
    for (const panel of this.panels) {
      const row = modalities.indexOf(panel.modality), column = PLANES.indexOf(panel.plane);
      const { canvas } = panel;
      canvas.hidden = Boolean(this.single) && panel !== this.single;
      canvas.style.gridArea = this.single ? "auto" : byPlane ? `${row + 1} / ${column + 1}` : `${column + 1} / ${row + 1}`;
      panel.width = Math.round(frames[column].width * scale);
      panel.height = Math.round(frames[column].height * scale);
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
    const { canvas, plane, modality } = panel;
    const context = canvas.getContext("2d");
    const dots = canvas.width / panel.width;
    context.setTransform(dots, 0, 0, dots, 0, 0);
    const view = this.views[PLANES.indexOf(plane)];
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
    const [wide, high] = [plane.across, plane.up].map((axis) => this.summary.spacing[axis]);
    context.imageSmoothingEnabled = this.map === "none" && panel.scale * Math.min(wide, high) < 4;
    context.drawImage(panel.picture, view.left / wide, view.top / high, view.width / wide, view.height / high,
      0, 0, panel.width, panel.height);
    this.drawContours(context, panel, view, dots);
    this.drawCross(context, panel, view);
    this.drawLetters(context, panel, view);
  }

  /* The slice of a panel in voxels: the image with the map over it. */
  compose(panel) {
    const { plane, modality, pixels } = panel;
    const index = this.at[plane.through];
    const key = [index, this.answer, this.map, this.classChoice.value, this.againstChoice.value, this.range, this.opacity,
      this.brightness[scaleOf(modality)]].join();
    if (panel.drawn === key) return;
    panel.drawn = key;
    const out = new Uint32Array(pixels.data.buffer);
    const { shape } = this.summary, strides = [1, shape[0], shape[0] * shape[1]];
    const [columns, rows] = [shape[plane.across], shape[plane.up]];
    const image = this.arrays.of(`image/${modality.name}`), grey = greys(modality, this.brightness);
    const paint = this.painter(modality, plane, index);
    const across = strides[plane.across], up = strides[plane.up];
    for (let row = 0, pixel = 0; row < rows; row++) {
      const j = rows - 1 - row;
      let place = index * strides[plane.through] + j * up + (columns - 1) * across;
      for (let column = 0; column < columns; column++, pixel++, place -= across) {
        const g = grey(image[place]);
        const colour = 0xff000000 | g << 16 | g << 8 | g;
        out[pixel] = paint ? paint(columns - 1 - column, j, place, g, colour) : colour;
      }
    }
    panel.picture.getContext("2d").putImageData(pixels, 0, 0);
  }

  /* A function that lays the chosen map over a grey pixel; null where there is none for this modality. */
  painter(modality, plane, index) {
    const { signal, opacity } = this;
    const over = (g, r, gr, b, alpha) => {
      const rest = g * (1 - alpha);
      return 0xff000000 | (rest + b * alpha) << 16 | (rest + gr * alpha) << 8 | (rest + r * alpha);
    };
    if (this.map === "difference") return this.answer ? this.painterOfChanges(plane, index, over) : null;
    const kind = this.map === "contribution" ? "contributions" : this.map;
    if (this.map === "none" || !this.facts[kind].includes(modality.name)) return null;
    const isUncertainty = this.map === "uncertainty";
    const name = isUncertainty ? `uncertainty/${this.answer}` : `${this.map}/${this.answer}/${modality.name}`;
    const { axes } = this.mapAt;
    const [acrossAt, upAt] = [axes[plane.across], axes[plane.up]], base = axes[plane.through][index];
    if (base < 0) return null;
    const isAttention = isUncertainty || this.map === "attention";
    const colours = this.summary.colours[isAttention ? "cividis" : "RdBu_r"];
    const values = this.arrays.of(name), share = isAttention ? null : this.shareIn(values, plane, index);
    const gain = isAttention ? 1 : this.facts.step * 127.5 / this.limit();
    return (i, j, place, g, colour) => {
      if (acrossAt[i] < 0 || upAt[j] < 0 || (signal && !signal[place])) return colour;
      const at = base + acrossAt[i] + upAt[j], value = (share ? share(at, i, j) : values[at]) * gain;
      const shade = isAttention ? value : clamp(Math.round(127.5 + value), 0, 255);
      const alpha = isAttention ? opacity : opacity * fade(value / 127.5);
      return over(g, colours[3 * shade], colours[3 * shade + 1], colours[3 * shade + 2], alpha);
    };
  }

  painterOfChanges(plane, index, over) {
    const before = this.arrays.of("classes/0"), now = this.arrays.of(`classes/${this.answer}`);
    const { axes } = this.classAt;
    const [acrossAt, upAt] = [axes[plane.across], axes[plane.up]], base = axes[plane.through][index];
    if (base < 0) return null;
    return (i, j, place, g, colour) => {
      if (acrossAt[i] < 0 || upAt[j] < 0) return colour;
      const at = base + acrossAt[i] + upAt[j];
      if (before[at] === now[at]) return colour;
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
    const columns = this.summary.shape[plane.across], state = [index, this.answer, contrast.name, contrast.against].join();
    let kept = this.weights.get(plane.name);
    if (kept?.state !== state) {
      kept = { state, known: new Uint8Array(columns * this.summary.shape[plane.up]) };
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
    const { shape } = this.summary, index = this.at[plane.through];
    const [columns, rows] = [shape[plane.across], shape[plane.up]];
    const found = new Uint8Array(columns * rows);
    const whole = source === "truth";
    const values = this.arrays.of(whole ? "truth" : `classes/${this.answer}`);
    const strides = [1, shape[0], shape[0] * shape[1]];
    const along = (axis) => whole ? Int32Array.from({ length: shape[axis] }, (_, i) => i * strides[axis]) : this.classAt.axes[axis];
    const [acrossAt, upAt, base] = [along(plane.across), along(plane.up), along(plane.through)[index]];
    if (base < 0) return found;
    for (let row = 0, pixel = 0; row < rows; row++) {
      const up = upAt[rows - 1 - row];
      for (let column = columns - 1; column >= 0; column--, pixel++) {
        if (up >= 0 && acrossAt[column] >= 0) found[pixel] = values[base + up + acrossAt[column]];
      }
    }
    return found;
  }

  /* Outlines of each region in a slice, kept until the slice or the answer changes. */
  outlinesIn(plane, source) {
    const key = `${plane.name} ${source}`, state = `${this.at[plane.through]} ${source === "truth" ? "" : this.answer}`;
    const kept = this.outlines.get(key);
    if (kept?.state === state) return kept.paths;
    const [columns, rows] = [plane.across, plane.up].map((axis) => this.summary.shape[axis]);
    const size = [plane.across, plane.up].map((axis) => this.summary.spacing[axis]);
    const classes = this.classesIn(plane, source), mask = new Uint8Array(classes.length);
    const paths = this.summary.regions.map((region) => {
      const inside = Uint8Array.from({ length: 256 }, (_, one) => region.classes.includes(one) ? 1 : 0);
      for (let i = 0; i < mask.length; i++) mask[i] = inside[classes[i]];
      return outline(mask, columns, rows, size, this.scratch);
    });
    this.outlines.set(key, { state, paths });
    return paths;
  }

  /* One region has the colours of whose outline it is; of several each has its own, solid of the truth, dashed of the
   * prediction. What lies below others is wider, so that each is seen where several run along one edge. */
  drawContours(context, panel, view, dots) {
    context.save();
    const scale = panel.scale * dots;
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

  drawCross(context, panel, view) {
    const [mmX, mmY] = this.crossMm(panel.plane);
    const [x, y] = [(mmX - view.left) * panel.scale, (mmY - view.top) * panel.scale];
    const hole = 7;
    context.strokeStyle = "rgba(255,255,255,0.6)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - hole], [x + hole, panel.width]]) { context.moveTo(from, y); context.lineTo(to, y); }
    for (const [from, to] of [[0, y - hole], [y + hole, panel.height]]) { context.moveTo(x, from); context.lineTo(x, to); }
    context.stroke();
  }

  drawLetters(context, panel, view) {
    const { width, height, plane, modality, scale } = panel;
    Object.assign(context, { font: `11px ${this.style.font}`, fillStyle: "#fff", strokeStyle: "rgba(0,0,0,0.8)",
      lineWidth: 3, lineJoin: "round", textBaseline: "middle", textAlign: "left" });
    haloed(context, plane.letters[0], 4, height / 2);
    context.textAlign = "right";
    haloed(context, plane.letters[1], width - 4, height / 2);
    context.textAlign = "center";
    haloed(context, plane.letters[3], width / 2, height - 8);
    context.font = `600 12px ${this.style.font}`;
    const beside = context.measureText(modality.name).width + 15;
    context.font = `11px ${this.style.font}`;
    haloed(context, plane.letters[2], Math.max(width / 2, beside), 9);
    context.textAlign = "left";
    context.font = `600 12px ${this.style.font}`;
    haloed(context, modality.name, 5, 10);
    const bar = barLength(view.width), right = width - 6, left = right - bar * scale;
    for (const [lineWidth, strokeStyle] of [[4, "rgba(0,0,0,0.8)"], [2, "#fff"]]) {
      Object.assign(context, { lineWidth, strokeStyle });
      context.beginPath();
      context.moveTo(left, height - 6);
      context.lineTo(right, height - 6);
      context.stroke();
    }
    Object.assign(context, { font: `10px ${this.style.font}`, textAlign: "right", lineWidth: 3, strokeStyle: "rgba(0,0,0,0.8)" });
    haloed(context, `${bar} mm`, right, height - 15);
  }

  // ---- what the colours mean

  keyTexts() {
    if (this.map === "attention") return { note: ATTENTION_NOTE, low: "0", high: "1", label: "attention" };
    if (this.map === "uncertainty") {
      return { note: UNCERTAINTY_NOTE, low: "0", high: this.mostNats.toFixed(2), label: "uncertainty (nats)" };
    }
    if (this.map === "contribution") {
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
    const state = [this.map, this.answer, this.classChoice.value, this.againstChoice.value, this.range, this.opacity, this.style.text].join();
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
    const isSigned = this.map === "contribution", colours = this.summary.colours[isSigned ? "RdBu_r" : "cividis"];
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
    const items = CHANGES.map(({ name }, number) => {
      const swatch = h("span", { className: "swatch", "aria-hidden": "true" });
      swatch.style.background = this.summary.changes[name];
      return h("span", { className: "item" }, swatch, `${name} ${(counts[number] * millilitres).toFixed(2)} mL`);
    });
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
    const { summary, facts, answer } = this, { step, bias } = facts;
    const place = this.mapAt.at(...this.at), inside = place >= 0;
    const of = (name) => Array.from({ length: summary.channels }, (_, k) => step * this.arrays.of(name)[k * this.mapSize + place]);
    const scans = inside ? facts.contributions.map((name) => [name, of(`contribution/${answer}/${name}`)]) : [];
    const alone = bias?.map((one) => one * step);
    const logits = !inside ? [] : facts.sums ? scans.reduce((sum, [, one]) => sum.map((value, k) => value + one[k]), alone) :
      of(`logits/${answer}`);
    const rows = inside ? summary.sides.map(({ name, against }) => {
      const contrast = name === this.classChoice.value ? this.contrast() : this.contrast(name, against);
      const weights = alone ? this.weightsAt(contrast, place) : [];
      return { name, against: contrast.against, logOdds: logOdds(contrast, logits), bias: alone ? logOdds(contrast, alone) : null,
        contributions: Object.fromEntries(scans.map(([scan, one]) =>
          [scan, one.reduce((sum, value, k) => sum + weights[k] * value, 0)])),
        probability: summary.exclusive ? Math.exp(lse(contrast.over.map((k) => logits[k])) - lse(logits)) :
          1 / (1 + Math.exp(-logOdds(contrast, logits))) };
    }) : [];
    const { shape } = summary, at = this.at[0] + shape[0] * (this.at[1] + shape[1] * this.at[2]);
    const present = summary.modalities.filter((one) => !this.absence(one));
    const exact = this.classAt.at(...this.at);
    return {
      rows, inside, predicted: exact < 0 ? 0 : this.arrays.of(`classes/${answer}`)[exact],
      truth: summary.truth ? this.arrays.of("truth")[at] : null,
      nats: inside && facts.uncertainty.length ?
        this.arrays.of(`uncertainty/${answer}`)[place] / 255 * this.mostNats : null,
      attention: Object.fromEntries(inside ? facts.attention.map((name) =>
        [name, this.arrays.of(`attention/${answer}/${name}`)[place] / 255]) : []),
      intensity: Object.fromEntries(present.map((one) => {
        const code = this.arrays.of(`image/${one.name}`)[at];
        return [one.name, one.kind === "mr" && code === 0 ? 0 : one.low + one.step * code];
      })),
    };
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
    const { sums } = this.facts;
    const one = (value, digits = 3) => value === undefined || value === null ? null : signed(value, digits);
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
    const { classes } = this.summary;
    const told = [`Predicted: ${classes[found.predicted]}`, ...(found.nats === null ? [] : [`uncertainty ${found.nats.toFixed(2)} nats`]), ...(found.truth === null ? [] : [`ground truth: ${classes[found.truth] ?? "not labelled"}`])];
    const why = !found.inside ? "No scan has a signal here, so the network is not run: background." :
      sums ? "The log-odds, log p minus log p of what stands against it, are the sum of the shares of the scans and of the bias." :
        this.facts.contributions.length ? "The answer is mixed by size: contributions and bias are those of its fused part alone." :
          "This method's log-odds are no sum over the scans, so there are no contributions.";
    const coarse = this.summary.every > 1 && found.inside ? ` Maps are those of a voxel at most ${this.summary.every - 1} away.` : "";
    this.note.textContent = `${told.join(", ")}. ${why}${coarse}`;
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
    const fixed = (value, digits) => value === undefined || value === null ? "" : value.toFixed(digits);
    const lines = found.rows.map((row) => [this.summary.case, this.facts.modalities.join("+"), ...this.voxel,
      ...this.millimetres.map((mm) => mm.toFixed(2)), row.name, row.against,
      ...names.map((name) => fixed(row.contributions[name], 3)), fixed(row.bias, 3), fixed(row.logOdds, 3), fixed(row.probability, 6), ...names.map((name) => fixed(found.attention[name], 3)),
      ...names.map((name) => fixed(found.intensity[name], 1))]);
    const text = [columns, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n");
    this.download(new Blob([`${text}\r\n`], { type: "text/csv" }), this.fileName("csv"));
  }

  savePicture() {
    const dots = window.devicePixelRatio || 1;
    const { note, low, high, label } = this.keyTexts();
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
    let x = 8;
    const write = (text, y) => { context.fillText(text, x, y); x += context.measureText(text).width + 8; };
    if (label) {
      write(low, height + 44);
      context.drawImage(this.bar(), x, height + 39);
      x += 168;
      write(`${high}   ${label}`, height + 44);
    } else if (note) write(note, height + 44);
    x = 8;
    const drawn = Object.keys(LABELS).filter((source) => this.outlined.has(source));
    const swatches = this.oneRegion ? drawn.map((source) => ({ name: LABELS[source], colour: this.summary.sources[source] })) :
      this.summary.regions.filter((one) => this.outlined.has(one.name));
    for (const { name, colour } of swatches) {
      context.fillStyle = colour;
      context.fillRect(x, height + 61, 12, 12);
      context.strokeStyle = this.style.line;
      context.strokeRect(x, height + 61, 12, 12);
      context.fillStyle = this.style.text;
      x += 16;
      write(name, height + 67);
    }
    write(drawn.map((source) => `${LABELS[source]} ${source === "truth" ? "solid" : "dashed"}`).join(", "), height + 67);
    canvas.toBlob((blob) => this.download(blob, this.fileName("png")));
  }

  end() {
    this.observer?.disconnect();
    this.model.off("change:voxel", this.onVoxel);
    this.model.off("change:scans", this.onScans);
    cancelAnimationFrame(this.waiting);
  }
}

/* Opacity of a contribution, as a share of the slider's: full from a third of the range on. */
function fade(share) { return Math.min(1, 3 * Math.abs(share)); }

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
