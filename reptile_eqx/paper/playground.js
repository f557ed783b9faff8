// The front end of `playground.py`: it draws a widget's traits, and asks by messages.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  return filled(made, attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function floats(view) {
  // A view into a message need not begin where a float may.
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function path(values, x, y) {
  const at = (value, i) => `${i ? "L" : "M"}${x(i / (values.length - 1)).toFixed(1)} ${y(value).toFixed(1)}`;
  return Array.from(values, at).join("");
}

function picture(bytes, position = 0) {
  const canvas = element("canvas", { class: "picture", width: 28, height: 28 });
  const image = new ImageData(28, 28);
  for (let i = 0; i < 784; i++) {
    image.data.fill(bytes.byteLength ? bytes.getUint8(784 * position + i) : 255, 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// One question is on its way at a time. Of questions that replace one another, only the newest waits.
function questions(model, say) {
  let number = Date.now(), waiting = [], asked = null, timer = null;
  function next() {
    const first = waiting.shift();
    asked = first ? ++number : null;
    clearTimeout(timer);
    if (!first) return;
    timer = setTimeout(() => {
      say("No answer yet. If it stays so: is this notebook's kernel running, and its cells executed in it?");
      waiting = [];
      asked = null;
    }, 10000);
    model.send({ ...first.message, number: asked });
  }
  const heard = () => model.get("answered") === asked && next();
  model.on("change:answered", heard);
  return {
    ask(message, replaces = false) {
      if (replaces) waiting = waiting.filter((other) => !other.replaces);
      waiting.push({ message, replaces });
      if (asked === null) next();
    },
    end() {
      clearTimeout(timer);
      model.off("change:answered", heard);
    },
  };
}

function choice(model, name, chosen) {
  const select = element("select", { onchange: () => chosen(select.value), "aria-label": name });
  select.append(...model.get("starts").map((start) => element("option", {}, start)));
  return select;
}

function sine({ model, root, ask }) {
  const x = (share) => 30 + 600 * share, y = (value) => 160 - 25 * value;
  const before = shape("path", { class: "before" });
  const truth = shape("path", { class: "truth" });
  const after = shape("path", { class: "after" });
  const chart = shape("svg", { viewBox: "0 0 640 320", role: "group", "aria-label": "ten points to drag" });
  for (const value of [-5, 0, 5]) {
    chart.append(
      shape("line", { class: "grid", x1: 30, x2: 630, y1: y(value), y2: y(value) }),
      shape("text", { x: 24, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
      shape("text", { x: x(value / 10 + 0.5), y: 318, "text-anchor": "middle" }, `${value}`),
    );
  }
  chart.append(before, truth, after);
  let points = model.get("points"), held = null;
  const follow = () => ask({ points, start: select.value }, true);
  const clip = (value, most) => Math.max(-most, Math.min(most, value));
  const move = (i, to) => {
    points = points.map((point, j) => (i === j ? [clip(to[0], 5), clip(to[1], 6)] : point));
    place();
    follow();
  };
  const dots = points.map((_, i) => {
    const hold = shape("circle", {
      class: "hold", r: 16, tabindex: 0, role: "button", "aria-label": `point ${i + 1}: move it with the arrow keys`,
      onpointerdown: (event) => {
        held = i;
        hold.setPointerCapture(event.pointerId);
        event.preventDefault();
        hold.focus({ preventScroll: true });
      },
      onpointermove: (event) => {
        if (held !== i) return;
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
        move(i, [(at.x - 30) / 60 - 5, (160 - at.y) / 25]);
      },
      onpointerup: () => (held = null),
      onpointercancel: () => (held = null),
      onkeydown: (event) => {
        const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
        if (!step) return;
        event.preventDefault();
        move(i, [points[i][0] + step[0], points[i][1] + step[1]]);
      },
    });
    const dot = shape("circle", { class: "point", r: 6, "pointer-events": "none" });
    chart.append(hold, dot);
    return [hold, dot];
  });
  const place = () =>
    points.forEach((point, i) => {
      for (const circle of dots[i]) {
        circle.setAttribute("cx", x(point[0] / 10 + 0.5));
        circle.setAttribute("cy", y(point[1]));
      }
    });
  const slider = element("input", { type: "range", min: 0, max: 32, value: model.get("steps"), oninput: () => draw() });
  const count = element("output");
  const loss = element("output");
  const select = choice(model, "initialisation", follow);
  root.append(
    element(
      "div",
      { class: "line" },
      element("label", {}, "initialisation", select),
      element("label", {}, "gradient steps", slider, count),
      element("button", { onclick: () => ask({ another: true }) }, "Another wave"),
    ),
    chart,
    element(
      "div",
      { class: "line muted" },
      element("span", {}, "mean squared error on the points: ", loss),
      element("span", {}, "dotted: before adaptation · dashed: the wave that the points are of, until one is moved"),
    ),
  );
  function draw() {
    const curves = floats(model.get("curves")), losses = floats(model.get("losses"));
    const step = Number(slider.value), of = (i) => curves.slice(101 * i, 101 * (i + 1));
    // A function that has run away ends at the frame.
    const inside = (value) => y(Number.isFinite(value) ? clip(value, 6.4) : 6.4);
    before.setAttribute("d", path(of(0), x, inside));
    after.setAttribute("d", path(of(step), x, inside));
    truth.setAttribute("d", model.get("wave").length ? path(model.get("wave"), x, inside) : "");
    count.textContent = step;
    loss.textContent = Number.isFinite(losses[step]) ? losses[step].toPrecision(3) : "no bound";
  }
  return () => {
    if (held === null) points = model.get("points");
    select.value = model.get("start");
    place();
    draw();
  };
}

function characters({ model, root, ask }) {
  const side = 280, classes = model.get("classes");
  const paper = element("canvas", { class: "paper", tabindex: 0, "aria-label": "a canvas to draw on" });
  const sharp = window.devicePixelRatio || 1;
  paper.width = paper.height = side * sharp;
  paper.style.width = paper.style.height = `${side}px`;
  const pen = paper.getContext("2d");
  Object.assign(pen, { lineWidth: (5.4 / 105) * side * sharp, lineCap: "round", lineJoin: "round" });
  let strokes = [], drawing = false, chosen = 0;

  function ink() {
    pen.clearRect(0, 0, paper.width, paper.height);
    for (const stroke of strokes) {
      pen.beginPath();
      for (const [x, y] of stroke) pen.lineTo(x * paper.width, y * paper.height);
      // A dot is a line, too.
      if (stroke.length === 1) pen.lineTo(stroke[0][0] * paper.width + 0.1, stroke[0][1] * paper.height);
      pen.stroke();
    }
  }
  function show(next) {
    strokes = next;
    ink();
    ask({ drawing: strokes }, true);
  }
  function at(event) {
    const box = paper.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  function add() {
    if (strokes.length) ask({ add: chosen, drawing: strokes });
    drawing = false;
    strokes = [];
    ink();
  }
  function choose(i) {
    chosen = i;
    rows.forEach((row, j) => row.button.setAttribute("aria-pressed", i === j));
  }
  const undo = () => show(strokes.slice(0, -1));
  const clear = () => show([]);
  filled(paper, {
    onpointerdown: (event) => {
      if (event.button) return;
      event.preventDefault();
      paper.focus({ preventScroll: true });
      paper.setPointerCapture(event.pointerId);
      drawing = event.pointerId;
      show([...strokes, [at(event)]]);
    },
    onpointermove: (event) => {
      if (drawing !== event.pointerId) return;
      const stroke = strokes[strokes.length - 1];
      // A browser hands over several points at once, and more of them than a drawing needs.
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const [x, y] = at(one), [before, above] = stroke[stroke.length - 1];
        if (Math.hypot(x - before, y - above) > 0.008) stroke.push([x, y]);
      }
      show(strokes);
    },
    onpointerup: () => (drawing = false),
    onpointercancel: () => (drawing = false),
  }, []);

  const rows = Array.from({ length: classes }, (_, i) => ({
    button: element("button", { class: "class", title: `the next example is of ${i + 1}`, onclick: () => choose(i) }, `${i + 1}`),
    examples: element("div", { class: "examples" }),
    bar: element("div", { class: "bar" }, element("div")),
    percent: element("span", { class: "percent" }),
  }));
  const seen = element("span");
  root.append(
    element(
      "div",
      {},
      paper,
      element(
        "div",
        { class: "line", style: `max-width: ${side}px; margin-top: 6px` },
        element("button", { onclick: add, title: "Enter" }, "Add example"),
        element("button", { onclick: undo, title: "Ctrl-Z" }, "Undo"),
        element("button", { onclick: clear, title: "Esc" }, "Clear"),
      ),
    ),
    element(
      "div",
      {},
      element("div", { class: "classes" }, ...rows.flatMap(({ button, examples, bar, percent }) => [button, examples, bar, percent])),
      element(
        "div",
        { class: "line", style: "margin-top: 8px" },
        element("label", { title: "the drawing, as the network sees it" }, "the network sees", seen),
        ...(model.get("lends") ? [element("button", { onclick: () => ask({ borrow: true }) }, "Borrow examples")] : []),
        element("button", { onclick: () => ask({ forget: true }) }, "Remove all"),
      ),
    ),
    element(
      "div",
      { class: "line muted" },
      element("span", {}, element("kbd", {}, "1"), " … ", element("kbd", {}, `${classes}`), " choose a character"),
      element("span", {}, element("kbd", {}, "Enter"), " add the drawing as its example"),
      element("span", {}, element("kbd", {}, "Ctrl-Z"), " undo a stroke"),
      element("span", {}, element("kbd", {}, "Esc"), " clear"),
      element("span", {}, "click on an example to remove it"),
    ),
  );
  root.addEventListener("keydown", (event) => {
    const digit = Number(event.key);
    const typed = event.ctrlKey || event.metaKey ? `Ctrl-${event.key.toLowerCase()}` : event.key;
    const wanted = { Enter: add, "Ctrl-z": undo, Escape: clear }[typed];
    // Enter on a button is that button's.
    if (typed === "Enter" && event.target.tagName === "BUTTON" && !event.target.classList.contains("class")) return;
    if (wanted) wanted();
    else if (typed === event.key && digit >= 1 && digit <= classes) choose(digit - 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  choose(0);
  return () => {
    const examples = model.get("examples"), probabilities = model.get("probabilities");
    const most = Math.max(...probabilities);
    rows.forEach((row, i) => {
      const mine = examples.flatMap(([number, of], position) =>
        of === i
          ? [element("button", { title: "remove this example", "aria-label": `remove this example of ${i + 1}`, onclick: () => ask({ remove: number }) }, picture(model.get("pictures"), position))]
          : [],
      );
      row.examples.replaceChildren(...mine);
      const share = probabilities[i] ?? 0;
      row.bar.firstChild.style.width = `${100 * share}%`;
      row.bar.classList.toggle("top", probabilities.length > 0 && share === most);
      row.percent.textContent = probabilities.length && mine.length ? `${(100 * share).toFixed(0)} %` : "";
    });
    seen.replaceChildren(picture(model.get("seen")));
  };
}

function breaking({ model, root, ask }) {
  const steps = model.get("steps");
  const x = (share) => 50 + 570 * share, y = (value) => 250 - 230 * value;
  const chart = shape("svg", { viewBox: "0 0 640 290", role: "img", "aria-label": "accuracy against gradient steps" });
  for (const value of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    chart.append(
      shape("line", { class: "grid", x1: 50, x2: 620, y1: y(value), y2: y(value) }),
      shape("text", { x: 44, y: y(value) + 4, "text-anchor": "end" }, `${100 * value} %`),
    );
  }
  steps.forEach((step, i) =>
    chart.append(shape("text", { x: x(i / (steps.length - 1)), y: 268, "text-anchor": "middle" }, `${step}`)),
  );
  const reference = shape("path", { class: "before" });
  const curve = shape("path", { class: "after" });
  const mark = shape("line", { class: "mark", y1: y(0), y2: y(1) });
  chart.append(
    shape("text", { x: 335, y: 286, "text-anchor": "middle" }, "gradient steps"),
    reference, mark, curve,
  );
  const ask_again = () => ask({ step_size: 10 ** Number(size.value), start: select.value }, true);
  const size = element("input", { type: "range", min: -5, max: 0, step: 0.05, oninput: ask_again });
  const number = element("input", { type: "range", min: 0, max: steps.length - 1, value: model.get("chosen"), oninput: () => draw() });
  const size_said = element("output"), number_said = element("output"), said = element("b");
  const select = choice(model, "initialisation", ask_again);
  const support = element("span", { class: "examples" });
  root.append(
    element(
      "div",
      { class: "line" },
      element("label", {}, "initialisation", select),
      element("label", {}, "inner step size", size, size_said),
      element("label", {}, "gradient steps", number, number_said),
    ),
    element(
      "div",
      { class: "line" },
      element("label", { class: "examples" }, "adapted to", support),
      element("button", { onclick: () => ask({ another: true }) }, "Another task"),
    ),
    chart,
    element("div", { class: "line" }, said),
    element("div", { class: "line muted" }, `accuracy on held-out drawings of the task · dotted: with the step size of training, ${model.get("published")} · 20 % is guessing`),
  );
  function draw() {
    const i = Number(number.value), accuracy = model.get("accuracy"), learned = model.get("learned")[i];
    reference.setAttribute("d", path(model.get("reference"), x, y));
    curve.setAttribute("d", path(accuracy, x, y));
    mark.setAttribute("x1", x(i / (steps.length - 1)));
    mark.setAttribute("x2", x(i / (steps.length - 1)));
    size_said.textContent = Number(model.get("step_size").toPrecision(2));
    number_said.textContent = steps[i];
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    said.textContent = `After ${steps[i]} steps ${percent(accuracy[i])} are right, and ${percent(learned)} of the examples themselves.`;
  }
  return () => {
    select.value = model.get("start");
    if (document.activeElement !== size) size.value = Math.log10(model.get("step_size"));
    const pictures = model.get("support");
    support.replaceChildren(...Array.from({ length: pictures.byteLength / 784 }, (_, i) => picture(pictures, i)));
    draw();
  };
}

const PARTS = { Sine: sine, Characters: characters, Breaking: breaking };

function render({ model, el }) {
  // JupyterLab would take digits, Enter and Ctrl-Z for commands of its own.
  const root = element("div", { class: "playground", tabindex: -1, "data-lm-suppress-shortcuts": "true" });
  const status = element("div", { class: "status", role: "status", "aria-live": "polite" });
  const { ask, end } = questions(model, (text) => (status.textContent = text));
  const update = PARTS[model.get("part")]({ model, root, ask });
  const heard = () => {
    update();
    status.textContent = model.get("status");
  };
  root.append(status);
  el.append(root);
  heard();
  // All traits of an answer have come when this one is told of.
  model.on("change", heard);
  return () => {
    end();
    model.off("change", heard);
  };
}

export default { render };
