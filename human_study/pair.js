// One pair of images and the choice between them. A choice is taken once both images are loaded and were visible for
// the study's minimum time, and is sent once; the server checks all of this again.

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", s: "skip", u: "undo", z: "zoom" };
// After so long without an answer (a lost connection) the buttons work again. A vote sent twice is still one vote.
const RETRY_MS = 5000;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".pair");
  const images = [...root.querySelectorAll("img")];
  const button = (choice) => root.querySelector(`[data-choice=${choice}]`);

  // Streamlit calls this at every run of the script: what was seen of the same page stays.
  if (root.state?.uuid !== data.submit_uuid) {
    root.state = { uuid: data.submit_uuid, assignment: data.assignment, sent: false, failed: false, loadedAt: null, visible: 0, shownAt: null, zooms: 0 };
    root.classList.remove("zoomed", "loaded");
    [data.left, data.right].forEach((url, i) => { images[i].src = url; });
  }
  const state = root.state;
  root.stop?.abort();
  const stop = (root.stop = new AbortController());
  const listen = (target, event, listener) => target.addEventListener(event, listener, { signal: stop.signal });
  let timer = null;

  root.style.setProperty("--display", `${data.display_px}px`);
  const prompt = root.querySelector(".prompt");
  prompt.textContent = data.prompt ?? "";
  prompt.hidden = !data.prompt;
  button("tie").hidden = !data.ties;

  const ready = () => state.loadedAt !== null && performance.now() - state.loadedAt >= data.minimum_view_ms;
  const visible = () => state.visible + (state.shownAt === null ? 0 : performance.now() - state.shownAt);

  function draw() {
    for (const choice of ["left", "tie", "right"]) button(choice).disabled = !ready() || state.sent;
    button("skip").disabled = state.sent || !(ready() || state.failed);
    button("undo").disabled = state.sent || !data.can_undo;
    root.querySelector(".status").textContent = state.failed
      ? "An image could not be loaded. Please reload the page, or skip this pair."
      : state.loadedAt === null ? "Loading both images …" : "";
  }

  function loaded() {
    if (state.loadedAt !== null || !images.every((image) => image.complete && image.naturalWidth > 0)) return;
    state.loadedAt = performance.now();
    state.shownAt = document.hidden ? null : state.loadedAt;
    root.classList.add("loaded");
    (data.next ?? []).forEach((url) => { new Image().src = url; });
  }

  function wait() {
    loaded();
    draw();
    clearTimeout(timer);
    if (state.loadedAt !== null && !ready()) timer = setTimeout(wait, 25);
  }

  function choose(choice) {
    if (choice === "zoom") {
      if (root.classList.toggle("zoomed")) state.zooms += 1;
      return;
    }
    if (button(choice).disabled || button(choice).hidden) return;
    state.sent = true;
    draw();
    timer = setTimeout(() => { state.sent = false; draw(); }, RETRY_MS);
    const total = state.loadedAt === null ? 0 : performance.now() - state.loadedAt;
    setTriggerValue("choice", {
      assignment: data.assignment,
      submit_uuid: data.submit_uuid,
      choice,
      ms_total: Math.floor(total),
      ms_visible: Math.floor(Math.min(total, visible())),
      page: {
        natural: images.map((image) => [image.naturalWidth, image.naturalHeight]),
        shown: images.map((image) => [image.clientWidth, image.clientHeight]),
        window: [window.innerWidth, window.innerHeight],
        pixel_ratio: window.devicePixelRatio,
        zooms: state.zooms,
      },
    });
  }

  for (const image of images) {
    listen(image, "load", wait);
    listen(image, "error", () => { state.failed = true; draw(); });
  }
  for (const element of root.querySelectorAll("button")) listen(element, "click", () => choose(element.dataset.choice));
  for (const box of root.querySelectorAll(".box")) {
    listen(box, "click", () => choose("zoom"));
    listen(box, "pointermove", (event) => { // both images move together, so that the same place is compared
      const frame = box.getBoundingClientRect();
      root.style.setProperty("--x", `${(100 * (event.clientX - frame.left)) / frame.width}%`);
      root.style.setProperty("--y", `${(100 * (event.clientY - frame.top)) / frame.height}%`);
    });
  }
  listen(document, "visibilitychange", () => {
    state.visible = visible();
    state.shownAt = document.hidden || state.loadedAt === null ? null : performance.now();
  });
  listen(window, "keydown", (event) => {
    const choice = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const typing = event.composedPath()[0]?.closest?.("input, textarea, select, [contenteditable]");
    if (!choice || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(choice);
  });
  wait();
  return () => { stop.abort(); clearTimeout(timer); };
}
