// Drives Chromium over the status page, for tests/it/page.rs:
//
//   node page.mjs look URL DIRECTORY PATH...     screenshots, accessibility, keyboard, console, requests
//   node page.mjs follow URL SELECTOR TEXT       says "open", then waits until the element says the text
//   node page.mjs stuck URL                      says "open", then waits until the page says that its connection is lost
//
// Faults go to standard error, one a line, and make the exit code 1.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.BROWSER_MODULES, "package.json"));
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [command, url, ...rest] = process.argv.slice(2);
const PATIENCE = 60_000;

const faults = [];
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"],
  timeout: PATIENCE,
  protocolTimeout: 2 * PATIENCE,
});

const open = async (path, { width = 1280, dark = false, scripts = true, may_fail = false } = {}) => {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  await page.setJavaScriptEnabled(scripts);
  await page.setViewport({ width, height: width < 500 ? 740 : 900, isMobile: width < 500, hasTouch: width < 500 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  const where = `${path} (${width}${dark ? ", dark" : ""}${scripts ? "" : ", no scripts"})`;
  if (!may_fail) {
    page.on("console", (said) => ["error", "warn"].includes(said.type()) && faults.push(`${where}: console: ${said.text()}`));
    page.on("pageerror", (error) => faults.push(`${where}: ${error}`));
    page.on("requestfailed", (request) => !/\/live/.test(request.url()) && faults.push(`${where}: ${request.url()} failed`));
  }
  page.on("request", (request) => request.url().startsWith(url) || faults.push(`${where}: asks ${request.url()}`));
  const answer = await page.goto(url + path, { waitUntil: "load" });
  if (answer.status() !== 200) faults.push(`${where}: ${answer.status()}`);
  if (scripts) {
    await page.waitForFunction(() => document.getElementById("link").textContent === "Live", { polling: 200 });
    await page.waitForFunction(() => [...document.querySelectorAll("figure[data-lag]")].every((figure) => figure.querySelector("canvas") || !figure.querySelector("svg")), { polling: 200 });
  }
  return { page, where };
};

const judge = async ({ page, where }) => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, help, nodes } of violations) {
    const line = `${where}: axe: ${impact}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`;
    if (["serious", "critical"].includes(impact)) faults.push(line);
    else console.log(line);
  }
};

if (command === "look") {
  const [directory, ...paths] = rest;
  mkdirSync(directory, { recursive: true });
  for (const path of paths) {
    const name = path === "/" ? "fleet" : path.split("/").pop();
    for (const [kind, how] of Object.entries({
      light: {},
      dark: { dark: true },
      phone: { width: 360 },
      "phone-dark": { width: 360, dark: true },
      plain: { scripts: false },
    })) {
      const tab = await open(path, how);
      await tab.page.screenshot({ path: join(directory, `${name}-${kind}.png`), fullPage: true });
      if (how.scripts !== false) {
        await judge(tab);
        const [wide, inner] = await tab.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        if (wide > inner) faults.push(`${tab.where}: it is ${wide} wide`);
      }
      await tab.page.close();
    }
    // By keys alone: the first way leads to the content, every stop is seen, and what is folded can be unfolded.
    const { page, where } = await open(path);
    const stops = [];
    for (let press = 0; press < 200; press += 1) {
      await page.keyboard.press("Tab");
      const stop = await page.evaluate(() => {
        const at = document.activeElement;
        if (at === document.body) return null;
        const style = getComputedStyle(at);
        return { what: `${at.nodeName} ${at.textContent.trim().slice(0, 40)}`, is_seen: style.outlineStyle !== "none" && at.getBoundingClientRect().width > 0 };
      });
      if (!stop) break;
      stops.push(stop);
    }
    if (!stops[0]?.what.startsWith("A Skip")) faults.push(`${where}: the first stop is ${stops[0]?.what}`);
    for (const stop of stops.filter((stop) => !stop.is_seen)) faults.push(`${where}: it is not seen that ${stop.what} has the focus`);
    const wanted = path === "/" ? /^A / : /^SUMMARY /;
    if (!stops.slice(2).some(({ what }) => wanted.test(what))) faults.push(`${where}: no stop is like ${wanted}: ${stops.map(({ what }) => what).join(", ")}`);
    const folded = await page.$("footer summary");
    await folded.focus();
    await page.keyboard.press("Enter");
    if (!(await page.$eval("footer details", (details) => details.open))) faults.push(`${where}: Enter does not unfold`);
    await page.close();
  }
} else if (command === "follow") {
  const [selector, text] = rest;
  const { page } = await open(new URL(rest[2] ?? "/", url).pathname);
  await page.evaluate(() => { window.isTheSame = true; });
  // What somebody has unfolded must stay so.
  await page.$eval("footer details", (details) => { details.open = true; });
  console.log("open");
  try {
    await page.waitForFunction((selector, text) => document.querySelector(selector)?.textContent.includes(text), { polling: 200 }, selector, text);
  } catch (error) {
    const says = await page.evaluate((selector) => `${document.getElementById("link").textContent}: ${document.querySelector(selector)?.textContent}`, selector);
    faults.push(`${error}: it says ${says}`);
  }
  if (!(await page.evaluate(() => window.isTheSame === true))) faults.push("the page was loaded anew");
  if (!(await page.$eval("footer details", (details) => details.open))) faults.push("what was unfolded is folded");
} else if (command === "stuck") {
  const { page } = await open("/", { may_fail: true });
  console.log("open");
  await page.waitForFunction(() => document.body.classList.contains("lost") && document.getElementById("link").textContent.startsWith("Connection lost"), { polling: 200 });
}
await browser.close();
faults.forEach((fault) => console.error(fault));
process.exitCode = faults.length ? 1 : 0;
