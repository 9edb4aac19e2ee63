// The status page, live. Without this script it is whole, and stands still.
"use strict";
(() => {
  const root = document.body;
  const link = document.getElementById("link");

  // What changes is put into the page in place: focus, unfolded details and scrolled tables stay as they are.
  const morph = (from, to) => {
    if (from.dataset && "keep" in from.dataset) return;
    for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value && !(name === "open" && from.matches("details"))) from.setAttribute(name, value);
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !(name === "open" && from.matches("details"))) from.removeAttribute(name);
    const byId = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = from.firstChild;
    for (const child of [...to.childNodes]) {
      const same = (node) => node && node.nodeType === child.nodeType && node.nodeName === child.nodeName && !node.id;
      const found = child.id ? byId.get(child.id) : same(at) ? at : null;
      if (!found) {
        from.insertBefore(child, at);
        continue;
      }
      if (found === at) at = at.nextSibling;
      else from.insertBefore(found, at);
      if (child.nodeType === Node.ELEMENT_NODE) morph(found, child);
      else if (found.data !== child.data) found.data = child.data;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };

  const take = ({ pieces, orders }) => {
    const rows = new Map();
    for (const [id, html] of Object.entries(pieces)) {
      const to = parse(html);
      const from = document.getElementById(id);
      if (!to) continue;
      if (from) morph(from, to);
      else rows.set(id, to);
    }
    for (const [id, order] of Object.entries(orders)) {
      const body = document.getElementById(id);
      if (!body) continue;
      const wanted = order.map((row) => document.getElementById(row) || rows.get(row)).filter(Boolean);
      wanted.forEach((row, place) => body.children[place] !== row && body.insertBefore(row, body.children[place] || null));
      while (body.children.length > wanted.length) body.lastElementChild.remove();
    }
    const title = document.getElementById("verdict")?.dataset.title;
    if (title && document.title !== title) document.title = title;
    filter();
    charts();
  };

  // --- Names that are looked for.
  const filter = () => {
    for (const input of document.querySelectorAll("[data-filter]")) {
      const text = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of document.getElementById(input.dataset.filter).children) {
        row.hidden = !row.dataset.name.toLowerCase().includes(text);
        if (!row.hidden) shown += 1;
      }
      const says = text ? `${shown} found` : "";
      const told = input.closest("p").querySelector("[role=status]");
      if (told.textContent !== says) told.textContent = says;
    }
  };
  for (const input of document.querySelectorAll("[data-filter]")) {
    input.closest("p").hidden = false;
    input.addEventListener("input", filter);
  }

  // --- Charts.
  const drawn = new WeakMap();
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const seconds = (value) => {
    if (value == null) return "not known";
    if (value > 0 && value < 0.1) return "<0.1s";
    if (value < 10) return `${+value.toFixed(1)}s`;
    if (value < 60) return `${Math.round(value)}s`;
    const [large, small, names] = value < 3600 ? [60, 1, "ms"] : value < 86400 ? [3600, 60, "hm"] : [86400, 3600, "dh"];
    const rest = Math.floor((value % large) / small);
    return `${Math.floor(value / large)}${names[0]}${rest ? ` ${rest}${names[1]}` : ""}`;
  };
  const ticks = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 172800, 604800];
  const clock = (time, from, to) => new Date(time * 1000).toISOString().slice(11, to - from > 900 ? 16 : 19);

  const options = (lags, width) => ({
    width,
    height: 220,
    cursor: { y: false, drag: { x: true, y: false } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1, (high || 0) * 1.1)] } },
    axes: [
      { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, values: (_, times) => times.map((time) => clock(time, times[0], times.at(-1))), space: 80 },
      { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, values: (_, values) => values.map(seconds), size: 64, incrs: ticks },
    ],
    series: [
      { label: "UTC", value: (_, time) => (time == null ? "" : new Date(time * 1000).toISOString().slice(5, 19).replace("T", " ")) },
      ...lags.series.map(({ target }, place) => ({ label: target, stroke: colour(`--s${place % 6}`), width: 2, spanGaps: false, points: { show: lags.times.length < 3 }, value: (_, value, __, at) => (at == null ? "" : seconds(value)) })),
    ],
    hooks: {
      drawClear: [
        (plot) => {
          const { ctx, bbox } = plot;
          for (const { from, until, severity } of plot.alerts || []) {
            const place = (time) => Math.min(Math.max(plot.valToPos(time, "x", true), bbox.left), bbox.left + bbox.width);
            const left = place(Date.parse(from) / 1000);
            const right = until ? place(Date.parse(until) / 1000) : bbox.left + bbox.width;
            ctx.save();
            ctx.globalAlpha = 0.16;
            ctx.fillStyle = colour(severity === "critical" ? "--bad" : severity === "warning" ? "--warn" : "--unknown");
            ctx.fillRect(left, bbox.top, Math.max(right - left, 2), bbox.height);
            ctx.restore();
          }
        },
      ],
    },
  });

  const draw = async (figure) => {
    const known = drawn.get(figure);
    if (known && Date.now() - known.at < 15000) return;
    const state = known || {};
    state.at = Date.now();
    drawn.set(figure, state);
    let lags;
    try {
      const answer = await fetch(figure.dataset.lag, { headers: { accept: "application/json" } });
      if (!answer.ok) return;
      lags = await answer.json();
    } catch {
      return;
    }
    if (lags.times.length < 2) return;
    const names = lags.series.map(({ target }) => target).join("\n");
    const data = [lags.times, ...lags.series.map((line) => line.seconds)];
    if (state.plot && state.names === names) {
      state.plot.alerts = lags.alerts;
      state.plot.setData(data);
    } else {
      state.plot?.destroy();
      const picture = figure.querySelector("svg");
      const label = picture?.getAttribute("aria-label") || figure.getAttribute("aria-label");
      const place = document.createElement("div");
      place.setAttribute("role", "img");
      place.setAttribute("aria-label", label);
      figure.replaceChildren(place);
      state.names = names;
      state.lags = lags;
      const plot = new uPlot(options(lags, figure.clientWidth), data, (self, ready) => {
        self.alerts = lags.alerts;
        place.append(self.root);
        ready();
      });
      state.plot = plot;
      new ResizeObserver(() => state.plot === plot && plot.setSize({ width: figure.clientWidth, height: 220 })).observe(figure);
    }
    figure.dataset.points = String(lags.times.length);
  };
  const charts = () => document.querySelectorAll("figure[data-lag]").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const figure of document.querySelectorAll("figure[data-lag]")) {
      const state = drawn.get(figure);
      if (state) Object.assign(state, { at: 0, names: null });
    }
    charts();
  });

  // --- What happens meanwhile.
  const say = (text, is_lost) => {
    if (link.textContent !== text) link.textContent = text;
    root.classList.toggle("lost", is_lost);
  };
  const lost = () => {
    const at = document.querySelector("#at time")?.textContent || "the time above";
    say(`Connection lost: this was true at ${at}.`, true);
  };
  let source;
  const listen = () => {
    source = new EventSource(root.dataset.live);
    source.onmessage = ({ data }) => {
      say("Live", false);
      take(JSON.parse(data));
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(reload, 10000);
      // A stream that has come to its end is opened again at once: only what lasts is told.
      setTimeout(() => source.readyState !== EventSource.OPEN && lost(), 4000);
    };
  };
  // Too many listen, or the daemon is new: the page is asked for whole, and then listened to again.
  const reload = async () => {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        morph(document.getElementById("main"), page.getElementById("main"));
        say("Renewed every 10 seconds", false);
        charts();
      } else lost();
    } catch {
      lost();
    }
    listen();
  };
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && listen());
  listen();
  charts();
})();
