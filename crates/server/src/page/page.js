// The page: a form that becomes a job, what a job tells, the queue, the gallery, and what One More Step does to brightness.
// Whatever comes from prompts, names and pictures is put in as text, never as HTML.

const by = (id) => document.getElementById(id);
const make = (tag, text, fields = {}) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, fields);
const clientName = sessionStorage.getItem("client") || crypto.getRandomValues(new Uint32Array(2)).join("-");
sessionStorage.setItem("client", clientName);

// ---- asking the server ----

class Refused extends Error {
  constructor(status, error) {
    super(error?.message || `the server answered ${status}`);
    this.status = status;
    this.error = error;
  }
}

// A job that ended without its pictures.
class Ended extends Error {}

let asking = null;
function askForKey() {
  asking ??= new Promise((done) => {
    by("ask").showModal();
    by("ask-form").onsubmit = () => {
      sessionStorage.setItem("key", by("key").value);
      by("key").value = "";
      asking = null;
      done();
    };
  });
  return asking;
}

async function call(method, path, body, more = {}) {
  for (;;) {
    const headers = { "X-Client-Id": clientName, ...more.headers };
    const key = sessionStorage.getItem("key");
    if (key) headers["X-Api-Key"] = key;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const sent = { method, headers, signal: more.signal, cache: "no-cache" };
    if (body !== undefined) sent.body = JSON.stringify(body);
    const answer = await fetch(path, sent);
    if (answer.status === 401) {
      await askForKey();
      continue;
    }
    if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error);
    return answer;
  }
}
const json = async (method, path, body, more) => (await call(method, path, body, more)).json();

const addresses = new Map();
async function address(url) {
  if (!addresses.has(url)) {
    const blob = await (await call("GET", url)).blob();
    addresses.set(url, URL.createObjectURL(blob));
  }
  return addresses.get(url);
}
const size = (bytes) => (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`);
const seconds = (s) => (s === null || s === undefined ? "" : s < 90 ? `${Math.ceil(s)} s` : `${Math.round(s / 60)} min`);
const later = (work, wait) => {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, wait);
  };
};

// ---- the form ----

const state = { models: [], loras: [], start: null, jobs: new Map(), shown: null, running: null, oldest: null };

function options(select, names, first) {
  const kept = select.value;
  select.replaceChildren(...(first ? [make("option", first[1], { value: first[0] })] : []),
    ...names.map(([value, label]) => make("option", label, { value })));
  if ([...select.options].some((one) => one.value === kept)) select.value = kept;
}

const used = (usage) => state.models.filter((one) => one.use === usage && !one.problem);
async function loadModels() {
  const found = await json("GET", "/v1/chiaro/models");
  state.models = found.models;
  state.defaultOms = found.default_oms;
  options(by("model"), used("model").map((one) => [one.name, one.family ? `${one.name} (${one.family})` : one.name]));
  if ([...by("model").options].some((one) => one.value === found.default)) by("model").value = found.default;
  options(by("oms"), [...used("oms").map((one) => [one.name, one.name]), ["off", "off"]], ["", "as the server has it"]);
  options(by("lora"), used("lora").map((one) => [one.name, one.name]), ["", "add one…"]);
  options(by("embedding"), used("embedding").map((one) => [one.name, one.name]), ["", "put into the prompt…"]);
}

async function loadSamplers() {
  const found = await json("GET", "/v1/chiaro/samplers");
  options(by("sampler"), found.samplers.map((one) => [one.name, one.label]), ["", "the model's own"]);
  options(by("sigmas"), found.sigmas.map((one) => [one.name, one.label]), ["", "the model's own"]);
}

const number = (id) => (by(id).value === "" ? undefined : Number(by(id).value));

function jobOf(withOms) {
  const request = {
    prompt: by("prompt").value, negative_prompt: by("negative").value || undefined, width: number("width"), height: number("height"),
    num_inference_steps: number("steps"), guidance_scale: number("guidance"), sampler: by("sampler").value || undefined,
    sigmas: by("sigmas").value || undefined, seed: number("seed"), count: number("count"),
  };
  const model = { name: by("model").value || undefined, oms: by("oms").value || undefined };
  if (!withOms) model.oms = "off";
  else if (hasOms()) {
    const oms = { guidance_scale: number("oms-guidance"), prompt: by("oms-prompt").value || undefined };
    if (Object.values(oms).some((value) => value !== undefined)) request.oms = oms;
  }
  if (number("hires") > 1) request.hires = { scale: number("hires") };
  if (number("variation") > 0) request.variation = { strength: number("variation"), seed: number("variation-seed") ?? 0 };
  const job = { version: 1, model, request };
  if (state.loras.length) job.adapters = state.loras.map(({ name, weight }) => ({ file: name, weight }));
  if (state.start) {
    job.image = { file: { bytes: state.start.bytes }, strength: number("strength") };
    const mask = maskBytes();
    if (mask) job.image.mask = { bytes: mask };
  }
  return job;
}

function hasOms() {
  const chosen = by("oms").value;
  return chosen !== "off" && (chosen !== "" || by("model").value === "demo" || Boolean(state.defaultOms));
}

function fill(job) {
  const request = job.request || {};
  by("prompt").value = request.prompt ?? "";
  by("negative").value = request.negative_prompt ?? "";
  by("oms-prompt").value = request.oms?.prompt ?? "";
  by("oms-guidance").value = request.oms?.guidance_scale ?? "";
  for (const [id, key] of [["width", "width"], ["height", "height"], ["steps", "num_inference_steps"], ["guidance", "guidance_scale"],
    ["seed", "seed"], ["sampler", "sampler"], ["sigmas", "sigmas"]]) by(id).value = request[key] ?? "";
  by("count").value = request.count ?? 1;
  by("hires").value = request.hires?.scale ?? "";
  by("variation").value = request.variation?.strength ?? "";
  by("variation-seed").value = request.variation?.seed ?? "";
  if (job.model?.name) by("model").value = job.model.name;
  by("oms").value = [...by("oms").options].some((one) => one.value === job.model?.oms) ? job.model.oms : "";
  state.loras = (job.adapters || []).map(({ file, weight }) => ({ name: file, weight: weight ?? 1 }));
  showLoras();
  showRanges();
  changed();
}

function showLoras() {
  by("loras").replaceChildren(...state.loras.map((lora, at) => {
    const weight = make("input", undefined, { type: "number", step: 0.05, value: lora.weight, ariaLabel: `Weight of ${lora.name}` });
    weight.oninput = () => { lora.weight = Number(weight.value); changed(); };
    const remove = make("button", "Remove", { type: "button", ariaLabel: `Remove ${lora.name}` });
    remove.onclick = () => { state.loras.splice(at, 1); showLoras(); changed(); };
    const row = make("li");
    row.append(make("span", lora.name, { className: "what" }), weight, remove);
    return row;
  }));
}

function showRanges() {
  by("strength-value").textContent = by("strength").value;
  by("target-value").textContent = by("target").value;
}

const countTokens = later(async () => {
  try {
    const told = await json("POST", "/v1/chiaro/tokens", { prompt: by("prompt").value, model: by("model").value || undefined });
    const first = told.tokenizers[0];
    by("tokens").textContent = `${first.count} tokens${first.chunks > 1 ? `, ${first.chunks} chunks of ${first.capacity}` : ` of ${first.capacity}`}`;
  } catch {
    by("tokens").textContent = "";
  }
}, 300);

const showPlan = later(async () => {
  if (!by("prompt").value.trim() && !state.start) return;
  try {
    const plan = await json("POST", "/v1/chiaro/plan", { job: jobOf(true), preview_every: 1 });
    const share = plan.limit_bytes ? plan.peak_bytes / plan.limit_bytes : 0;
    by("plan").hidden = false;
    by("plan-bar").classList.toggle("over", share > 1);
    by("plan-bar").firstElementChild.style.width = `${Math.min(100, 100 * share)}%`;
    const of = plan.limit_bytes ? ` of ${size(plan.limit_bytes)}` : "";
    const time = plan.seconds ? `, about ${seconds(plan.seconds)}` : "";
    by("plan-text").textContent = `${plan.width} × ${plan.height}: ${size(plan.peak_bytes)}${of} of memory${time}`;
    by("problem").textContent = "";
  } catch (error) {
    by("plan").hidden = true;
    by("problem").textContent = error.message;
  }
}, 500);
const changed = () => { countTokens(); showPlan(); };

// ---- pictures that are brought: text for the form, or a start ----

const toBase64 = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(file);
});

async function bring(file) {
  const bytes = await toBase64(file);
  const told = await json("POST", "/v1/chiaro/recipe", { image: bytes });
  if (told.job) {
    fill(told.job);
    const left = told.not_repeated.length ? `; not repeated: ${told.not_repeated.join(", ")}` : "";
    say(`The form is as the picture's text says${left}.`);
  } else {
    await startFrom(file, bytes);
    say("The picture has no text of its making: it is where to start.");
  }
}

async function startFrom(blob, bytes) {
  const image = await createImageBitmap(blob);
  state.start = { bytes: bytes ?? (await toBase64(blob)), width: image.width, height: image.height };
  for (const id of ["picture", "mask"]) Object.assign(by(id), { width: image.width, height: image.height });
  by("picture").getContext("2d").drawImage(image, 0, 0);
  state.painted = false;
  state.cursor = { x: image.width / 2, y: image.height / 2 };
  by("start").hidden = false;
  by("more").open = true;
  changed();
}

function dropStart() {
  state.start = null;
  by("start").hidden = true;
  by("file").value = "";
  changed();
}

// From where the brush was, if it was down, to a place.
function paint(x, y, from = [x, y]) {
  const pen = by("mask").getContext("2d");
  pen.strokeStyle = "rgb(255 120 0)";
  pen.lineCap = "round";
  pen.lineWidth = Number(by("brush").value) * (by("mask").width / Math.max(1, by("mask").clientWidth));
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(x, y);
  pen.stroke();
  state.painted = true;
  changed();
}

function maskBytes() {
  if (!state.painted) return null;
  const { width, height } = by("mask");
  const painted = by("mask").getContext("2d").getImageData(0, 0, width, height);
  const plain = make("canvas", undefined, { width, height });
  const pen = plain.getContext("2d");
  const grey = pen.createImageData(width, height);
  for (let at = 0; at < grey.data.length; at += 4) {
    grey.data.fill(painted.data[at + 3] > 0 ? 255 : 0, at, at + 3);
    grey.data[at + 3] = 255;
  }
  pen.putImageData(grey, 0, 0);
  return plain.toDataURL("image/png").split(",")[1];
}

function placeOf(event) {
  const box = by("mask").getBoundingClientRect();
  return [(event.clientX - box.left) * by("mask").width / box.width, (event.clientY - box.top) * by("mask").height / box.height];
}

// ---- drawing ----

const say = (text) => { by("status").textContent = text; };
function progress(share, text) {
  by("bar").setAttribute("aria-valuenow", Math.round(share * 100));
  by("bar").firstElementChild.style.width = `${share * 100}%`;
  by("progress").textContent = text;
}

async function draw() {
  by("problem").textContent = "";
  const both = by("compare").checked && hasOms();
  try {
    if (both && number("seed") === undefined) {
      // One seed for both, which stays told.
      state.pairSeed = crypto.getRandomValues(new Uint32Array(1))[0];
    }
    const jobs = (both ? [false, true] : [true]).map((withOms) => {
      const job = jobOf(withOms);
      if (both && job.request.seed === undefined) job.request.seed = state.pairSeed;
      return job;
    });
    const every = Math.max(1, Math.round((number("steps") || 30) / 6));
    const handed = [];
    for (const job of jobs) {
      handed.push(await json("POST", "/v1/chiaro/jobs", { job, preview_every: every }, { headers: { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) } }));
    }
    state.following = handed.map((one) => one.id);
    by("cancel").disabled = false;
    say(both ? "Two jobs are in the queue: without and with One More Step." : "The job is in the queue.");
    refresh();
    state.pair = both ? handed.map((one) => one.id) : null;
    for (const one of handed) await follow(one.id, both && one === handed[0] ? "without" : "with");
    say("Done.");
  } catch (error) {
    by("problem").textContent = error.message;
    say("Nothing was drawn.");
  } finally {
    by("cancel").disabled = true;
    state.following = [];
    refresh();
  }
}

// What a job tells, as it comes. Where the connection breaks it goes on from the last event.
async function follow(id, place) {
  let last = 0;
  for (let tries = 0; tries < 20;) {
    try {
      const answer = await call("GET", `/v1/chiaro/jobs/${id}/events`, undefined, { headers: last ? { "Last-Event-ID": last } : {} });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const event = parse(text.slice(0, end));
          text = text.slice(end + 2);
          if (event.id) last = event.id;
          if (event.name && (await heard(id, place, event))) return;
        }
      }
      tries += 1;
    } catch (error) {
      if (error instanceof Refused || error instanceof Ended) throw error;
      tries += 1;
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
  throw new Error("the server does not answer any more");
}

function parse(block) {
  const event = { name: "", data: "", id: 0 };
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event.name = line.slice(6).trim();
    else if (line.startsWith("data:")) event.data += line.slice(5).trim();
    else if (line.startsWith("id:")) event.id = Number(line.slice(3));
  }
  return event;
}

async function heard(id, place, { name, data }) {
  const told = data ? JSON.parse(data) : {};
  const which = state.pair ? (place === "without" ? "without One More Step, " : "with One More Step, ") : "";
  if (name === "queued") progress(0, `${which}in the queue`);
  if (name === "loading") progress(0, `${which}loading ${told.part}`);
  if (name === "one_more_step") progress(Number(by("bar").getAttribute("aria-valuenow")) / 100, `${which}One More Step is done`);
  if (name === "step") progress(told.share, `${which}step ${told.step} of ${told.of}${told.eta_seconds ? `, ${seconds(told.eta_seconds)} left` : ""}`);
  if (name === "preview") show(place, await address(told.url), "A picture that is not finished");
  if (name === "image") {
    show(place, await address(told.url), `${by("prompt").value}, ${which || "finished"}`);
    refresh();
  }
  if (name === "ended") {
    progress(told.state === "completed" ? 1 : 0, `${which}${told.state}`);
    if (told.state === "failed") throw new Ended(told.error?.message ?? "the job failed");
    if (told.state === "cancelled") throw new Ended("cancelled");
    await select(id, 0, false);
    return true;
  }
  return false;
}

// ---- the picture that is shown ----

function show(place, source, words) {
  const paired = state.pair !== null && state.pair !== undefined;
  const image = by(place);
  image.src = source;
  image.alt = words;
  if (place === "without") by("without").hidden = false;
  if (!paired) by("without").hidden = true;
  const both = !by("without").hidden && by("with").hasAttribute("src");
  by("slide-row").hidden = !both;
  by("divider").hidden = !both;
  slide();
}

function slide() {
  const at = Number(by("slide").value);
  by("without").style.clipPath = by("divider").hidden ? "" : `inset(0 ${100 - at}% 0 0)`;
  by("divider").style.left = `${at}%`;
}

async function select(id, index, alone = true) {
  // What has just been drawn is newer than the list.
  const job = (alone && state.jobs.get(id)) || (await json("GET", `/v1/chiaro/jobs/${id}`));
  state.jobs.set(id, job);
  const image = job.images.find((one) => one.index === index);
  if (!image) return;
  state.shown = { id, index, job };
  const partner = alone ? partnerOf(job, image) : null;
  if (alone) {
    state.pair = partner ? [partner.job.id, id] : null;
    by("with").removeAttribute("src");
    by("without").hidden = true;
    if (partner) {
      const [without, withIt] = job.oms ? [partner.image, image] : [image, partner.image];
      show("without", await address(without.url), `${job.prompt}, without One More Step`);
      show("with", await address(withIt.url), `${job.prompt}, with One More Step`);
    } else {
      show("with", await address(image.url), job.prompt);
    }
  }
  const oms = job.oms ? "with One More Step" : "without One More Step";
  by("facts").textContent = `${image.width} × ${image.height}, seed ${image.seed}, mean brightness ${image.mean.toFixed(3)}, ${oms}, ${job.model}`;
  by("actions").hidden = false;
  by("save").href = await address(image.url);
  by("save").download = `${(job.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)) || "chiaro"}-${image.seed}.png`;
  by("warnings").replaceChildren(...[...(job.adapters ?? []), ...job.warnings].map((text) => make("li", text)));
  for (const button of by("gallery").children) button.ariaPressed = String(button.dataset.key === `${id}/${index}`);
}

// The same prompt, model, seed and size, drawn the other way.
function partnerOf(job, image) {
  for (const other of state.jobs.values()) {
    if (other.oms === job.oms || other.prompt !== job.prompt || other.model !== job.model) continue;
    const found = other.images.find((one) => one.seed === image.seed && one.width === image.width && one.height === image.height);
    if (found) return { job: other, image: found };
  }
  return null;
}

// ---- queue, gallery, brightness ----

async function refresh(older = false) {
  let path = "/v1/chiaro/jobs?limit=60";
  if (older && state.oldest) path += `&before=${state.oldest}`;
  const { jobs, has_more } = await json("GET", path);
  if (!older) for (const id of [...state.jobs.keys()]) if (!jobs.some((one) => one.id === id) && id > (jobs.at(-1)?.id ?? "")) state.jobs.delete(id);
  for (const job of jobs) state.jobs.set(job.id, job);
  const last = jobs.at(-1)?.id;
  if (last && (!state.oldest || last < state.oldest)) {
    state.oldest = last;
    by("older").hidden = !has_more;
  }
  showQueue();
  await showGallery();
}

function showQueue() {
  const active = [...state.jobs.values()].filter((job) => ["queued", "running"].includes(job.state));
  active.sort((a, b) => (a.position ?? -1) - (b.position ?? -1));
  // What has the keyboard's focus stays where it is, unless something changed.
  const told = JSON.stringify(active.map((job) => [job.id, job.state, job.position, Math.round(job.progress.share * 100)]));
  if (told === state.queueShown) return;
  state.queueShown = told;
  by("queue-count").textContent = active.length ? `${active.length}` : "empty";
  by("queue").replaceChildren(...active.map((job) => {
    const what = job.state === "running" ? `${Math.round(job.progress.share * 100)} %` : `${job.position + 1}.`;
    const row = make("li");
    row.append(make("span", `${what} ${job.prompt || "(no prompt)"}${job.oms ? "" : " (without OMS)"}`, { className: "what", title: job.prompt }));
    if (job.state === "queued" && job.client === clientName && job.position > 0) {
      const up = make("button", "↑", { type: "button", ariaLabel: `Earlier: ${job.prompt}` });
      up.onclick = async () => {
        const own = active.filter((one) => one.client === clientName && one.state === "queued");
        await json("PATCH", `/v1/chiaro/jobs/${job.id}`, { position: Math.max(0, own.indexOf(job) - 1) }).catch(() => {});
        refresh();
      };
      row.append(up);
    }
    const stop = make("button", "Cancel", { type: "button", ariaLabel: `Cancel: ${job.prompt}` });
    stop.onclick = async () => {
      await call("DELETE", `/v1/chiaro/jobs/${job.id}`).catch(() => {});
      refresh();
    };
    row.append(stop);
    return row;
  }));
}

const pictures = () => [...state.jobs.values()].flatMap((job) => job.images.map((image) => ({ job, image })));

async function showGallery() {
  const target = Number(by("target").value);
  const all = pictures();
  if (by("by-target").checked) all.sort((a, b) => Math.abs(a.image.mean - target) - Math.abs(b.image.mean - target));
  else all.sort((a, b) => (a.job.id < b.job.id ? 1 : a.job.id > b.job.id ? -1 : a.image.index - b.image.index));
  const old = new Map([...by("gallery").children].map((button) => [button.dataset.key, button]));
  const keys = all.map(({ job, image }) => `${job.id}/${image.index}`).join();
  if (keys !== state.galleryShown) by("gallery").replaceChildren(...all.map(({ job, image }) => old.get(`${job.id}/${image.index}`) ?? tile(job, image)));
  state.galleryShown = keys;
  showHistogram(all);
}

function tile(job, image) {
  const words = `${job.prompt || "picture"}, seed ${image.seed}, ${job.oms ? "with" : "without"} One More Step`;
  const button = make("button", undefined, { type: "button", title: words, ariaPressed: "false" });
  button.dataset.key = `${job.id}/${image.index}`;
  const picture = make("img", undefined, { alt: words, loading: "lazy" });
  address(image.url).then((source) => { picture.src = source; }, () => {});
  button.append(picture, make("span", job.oms ? "OMS" : "plain", { className: "mark", ariaHidden: "true" }));
  button.onclick = () => select(job.id, image.index);
  return button;
}

const svg = (tag, fields) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(fields)) node.setAttribute(name, value);
  return node;
};

function showHistogram(all) {
  const bins = 20;
  const counts = [new Array(bins).fill(0), new Array(bins).fill(0)];
  for (const { job, image } of all) counts[job.oms ? 1 : 0][Math.min(bins - 1, Math.floor(image.mean * bins))] += 1;
  const most = Math.max(1, ...counts.flat());
  const nodes = [svg("line", { class: "axis", x1: 0, x2: 400, y1: 120, y2: 120 })];
  counts.forEach((own, which) => own.forEach((count, bin) => {
    const height = 110 * count / most;
    const bar = svg("rect", { class: which ? "with" : "without", x: bin * 20 + 1 + which * 9, y: 120 - height, width: 9, height });
    bar.append(Object.assign(svg("title", {}), { textContent: `${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}: ${count} ${which ? "with" : "without"} One More Step` }));
    nodes.push(bar);
  }));
  const target = 400 * Number(by("target").value);
  nodes.push(svg("line", { class: "target", x1: target, x2: target, y1: 4, y2: 120 }));
  for (const [x, text, anchor] of [[0, "0 black", "start"], [200, "0.5", "middle"], [400, "1 white", "end"]]) {
    nodes.push(Object.assign(svg("text", { x, y: 135, "text-anchor": anchor }), { textContent: text }));
  }
  by("histogram").replaceChildren(...nodes);
  const mean = (own) => (own.length ? own.reduce((sum, one) => sum + one.image.mean, 0) / own.length : null);
  const told = [false, true].map((oms) => [oms, all.filter((one) => one.job.oms === oms)]).filter(([, own]) => own.length);
  by("histogram").setAttribute("aria-label", `Histogram of mean brightness. ${told.map(([oms, own]) => `${own.length} pictures ${oms ? "with" : "without"} One More Step, mean ${mean(own).toFixed(2)}`).join("; ")}`);
}

// ---- what is clicked, typed and dropped ----

by("form").onsubmit = (event) => { event.preventDefault(); draw(); };
by("form").oninput = (event) => { showRanges(); if (event.target.id !== "file") changed(); };
by("file").onchange = () => { if (by("file").files[0]) bring(by("file").files[0]).catch((error) => { by("problem").textContent = error.message; }); };
by("lora").onchange = () => {
  if (by("lora").value) state.loras.push({ name: by("lora").value, weight: 1 });
  by("lora").value = "";
  showLoras();
  changed();
};
by("embedding").onchange = () => {
  if (by("embedding").value) by("prompt").value = `${by("prompt").value.trimEnd()} ${by("embedding").value}`.trim();
  by("embedding").value = "";
  changed();
};
by("clear-mask").onclick = () => { by("mask").getContext("2d").clearRect(0, 0, by("mask").width, by("mask").height); state.painted = false; changed(); };
by("drop-start").onclick = dropStart;
by("mask").onpointerdown = (event) => {
  by("mask").setPointerCapture(event.pointerId);
  state.brush = placeOf(event);
  paint(...state.brush);
};
by("mask").onpointermove = (event) => {
  if (!event.buttons) return;
  const place = placeOf(event);
  paint(...place, state.brush);
  state.brush = place;
};
by("mask").onkeydown = (event) => {
  const step = Number(by("brush").value) / 2;
  const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (!way && event.key !== " ") return;
  event.preventDefault();
  if (way) {
    state.cursor.x = Math.max(0, Math.min(by("mask").width, state.cursor.x + way[0]));
    state.cursor.y = Math.max(0, Math.min(by("mask").height, state.cursor.y + way[1]));
  }
  if (event.key === " " || event.shiftKey) paint(state.cursor.x, state.cursor.y);
};
by("slide").oninput = slide;
by("target").oninput = () => { showRanges(); showGallery(); };
by("by-target").onchange = showGallery;
by("older").onclick = () => refresh(true);
async function cancel() {
  for (const id of state.following ?? []) await call("DELETE", `/v1/chiaro/jobs/${id}`).catch(() => {});
}
by("cancel").onclick = cancel;
by("reuse").onclick = async () => {
  const told = await json("GET", `/v1/chiaro/jobs/${state.shown.id}`);
  const image = told.images.find((one) => one.index === state.shown.index);
  fill({ ...told.job, request: { ...told.job.request, seed: image.seed, count: 1 } });
  by("prompt").focus();
};
by("use-start").onclick = async () => {
  const image = state.shown.job.images.find((one) => one.index === state.shown.index);
  await startFrom(await (await fetch(await address(image.url))).blob());
};
by("remove").onclick = async () => {
  if (!confirm("Delete this job and its pictures?")) return;
  await call("DELETE", `/v1/chiaro/jobs/${state.shown.id}`);
  state.jobs.delete(state.shown.id);
  by("actions").hidden = true;
  by("with").removeAttribute("src");
  by("facts").textContent = "";
  refresh();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); draw(); }
  if (event.key === "Escape" && state.following?.length) cancel();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    const file = name === "drop" ? event.dataTransfer?.files?.[0] : null;
    if (file) bring(file).catch((error) => { by("problem").textContent = error.message; });
  });
}

showRanges();
try {
  const device = await json("GET", "/v1/chiaro/device");
  by("device").textContent = `${device.description}, ${device.version}`;
  await Promise.all([loadModels(), loadSamplers()]);
  await refresh();
  changed();
  say("Ready.");
} catch (error) {
  by("problem").textContent = error.message;
}
setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 4000);
