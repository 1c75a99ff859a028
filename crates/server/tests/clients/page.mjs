// The page as people use it: drawing, the preview, cancelling, the slider, a dropped picture, the mask, 360 pixels, the keyboard alone, what axe-core
// finds; no error in the console and no request to another host on the way. Screenshots go to FOLDER.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import path from "node:path";
import assert from "node:assert";

const modules = createRequire(path.join(process.env.NODE_PATH, "x.js"));
const { chromium } = modules("playwright-core");
const axe = readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");
const address = process.argv[2];
const folder = process.env.FOLDER;
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: quiet });
const context = await browser.newContext({ viewport: { width: 1400, height: 1000 } });
const page = await context.newPage();
const problems = [];
page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
page.on("pageerror", (error) => problems.push(error.message));
page.on("request", (request) => {
  const url = new URL(request.url());
  if (["http:", "https:", "ws:"].includes(url.protocol) && url.origin + "/" !== address) problems.push(`asked ${request.url()}`);
});
const says = async (id, text) => {
  const has = ([id, text]) => document.getElementById(id).textContent.includes(text);
  await page.waitForFunction(has, [id, text], { timeout: 30000 }).catch(async (late) => {
    await shot("failed");
    const told = await page.evaluate(() => ["status", "problem", "progress"].map((id) => document.getElementById(id).textContent));
    throw new Error(`#${id} does not say ${text}: ${JSON.stringify([told, problems])}`, { cause: late });
  });
};
const shot = (name) => page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
const faults = async (where) => {
  const { violations } = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ["violations"] })`);
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(serious.map((one) => `${one.id}: ${one.nodes[0].html}`), [], where);
};
const fill = async (fields) => { for (const [id, value] of Object.entries(fields)) await page.fill(`#${id}`, String(value)); };

await page.goto(address);
await says("status", "Ready.");
await says("tokens", "tokens");
await fill({ prompt: "a solid black image", width: 128, height: 128, steps: 12, seed: 11 });
await page.waitForSelector("#plan:not([hidden])");
await says("plan-text", "128 × 128");

// Draw without and with One More Step; a preview comes before the picture.
const previewed = page.waitForFunction(() => document.getElementById("with").alt.includes("not finished") || document.getElementById("without").alt.includes("not finished"));
await page.keyboard.press("Control+Enter");
await previewed;
await says("status", "Done.");
await says("facts", "mean brightness");
const means = (await page.evaluate(async () => (await (await fetch("/v1/chiaro/jobs")).json()).jobs)).map((job) => [job.oms, job.images[0].mean]);
const mean = (oms) => means.find(([own]) => own === oms)[1];
assert(mean(true) < mean(false), `black is darker with One More Step: ${JSON.stringify(means)}`);

// The slider uncovers one under the other.
assert(await page.isVisible("#slide"));
await page.fill("#slide", "0");
const hidden = await page.evaluate(() => document.getElementById("without").style.clipPath);
await page.fill("#slide", "100");
assert.notEqual(hidden, await page.evaluate(() => document.getElementById("without").style.clipPath));
await page.fill("#slide", "50");
assert.equal(await page.locator("#histogram rect.with[height='110']").count(), 1);
await faults("after drawing");
await shot("drawn");

// Cancel, with the keyboard.
await fill({ steps: 900, width: 256, height: 256 });
await page.uncheck("#compare");
await page.click("#draw");
await says("progress", "step");
await page.keyboard.press("Escape");
await says("problem", "cancelled");

// A picture of ours that is dropped fills the form; one without text is where to start.
const saved = await page.evaluate(async () => {
  const { jobs } = await (await fetch("/v1/chiaro/jobs?state=completed")).json();
  const blob = await (await fetch(jobs[0].images[0].url)).blob();
  return [...new Uint8Array(await blob.arrayBuffer())];
});
const drop = (bytes) => page.evaluate((bytes) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
}, bytes);
await fill({ prompt: "something else", seed: 1 });
await drop(saved);
await page.waitForFunction(() => document.getElementById("prompt").value === "a solid black image");
assert.equal(await page.inputValue("#seed"), "11");
assert.equal(await page.inputValue("#steps"), "12");

const plain = await page.evaluate(async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "rgb(200 40 40)";
  pen.fillRect(0, 0, 128, 128);
  const blob = await new Promise((done) => canvas.toBlob(done));
  return [...new Uint8Array(await blob.arrayBuffer())];
});
await drop(plain);
await page.waitForSelector("#start:not([hidden])");
// Paint a mask: with the pointer, and with the keyboard.
await page.locator("#mask").scrollIntoViewIfNeeded();
const box = await page.locator("#mask").boundingBox();
await page.mouse.move(box.x + box.width / 4, box.y + box.height / 4);
await page.mouse.down();
await page.mouse.move(box.x + box.width / 3, box.y + box.height / 3);
await page.mouse.up();
await page.focus("#mask");
await page.keyboard.press("ArrowLeft");
await page.keyboard.press(" ");
await fill({ prompt: "a black square", steps: 4, width: 128, height: 128, strength: 1 });
await shot("mask");
await page.click("#draw");
await says("status", "Done.");
const corner = await page.evaluate(async () => {
  const { jobs } = await (await fetch("/v1/chiaro/jobs?state=completed")).json();
  const image = await createImageBitmap(await (await fetch(jobs[0].images[0].url)).blob());
  const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3).join();
  return [at(126, 126), at(36, 36)];
});
assert.equal(corner[0], "200,40,40", "what is not masked stays");
assert.notEqual(corner[1], "200,40,40", "what is masked is painted");
await page.click("#drop-start");

// A prompt is text, whatever stands in it.
await fill({ prompt: "<img src=x onerror=document.title='taken'> & <b>bold</b>", steps: 2, seed: 3 });
await page.click("#draw");
await says("status", "Done.");
await page.waitForTimeout(200);
assert.equal(await page.title(), "Chiaro");
assert.equal(await page.locator("#gallery b, #queue b").count(), 0);

// 360 pixels, dark, and the keyboard alone: from the top to the picture.
await page.emulateMedia({ colorScheme: "dark" });
await faults("dark");
await shot("dark");
await page.setViewportSize({ width: 360, height: 780 });
assert(await page.evaluate(() => document.documentElement.scrollWidth) <= 360, "nothing is wider than the screen");
await faults("at 360 pixels");
await shot("narrow");
await page.reload();
await says("status", "Ready.");
const focused = () => page.evaluate(() => document.activeElement?.id);
await page.keyboard.press("Tab");
await page.keyboard.press("Enter");
await page.keyboard.press("Tab");
for (let i = 0; i < 40 && (await focused()) !== "prompt"; i += 1) await page.keyboard.press("Shift+Tab");
assert.equal(await focused(), "prompt");
await page.keyboard.press("Control+a");
await page.keyboard.type("a red circle");
const wanted = { width: "64", height: "64", steps: "2" };
for (let i = 0; i < 40 && (await focused()) !== "draw"; i += 1) {
  await page.keyboard.press("Tab");
  const value = wanted[await focused()];
  if (value) await page.keyboard.type(value);
}
await page.keyboard.press("Enter");
await says("status", "Done.");
await page.waitForFunction(() => document.querySelectorAll("#gallery button").length >= 5);
assert.deepEqual(problems, []);
await browser.close();
console.log("page: ok");
