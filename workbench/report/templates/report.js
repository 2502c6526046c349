// Draws the figures of a page when they come into view, and switches between light and dark.
// Everything shown is read from the page's own JSON; nothing is fetched.
"use strict";
(() => {
  const style = JSON.parse(document.getElementById("figure-style").textContent);
  const holder = document.getElementById("figures") ?? document.getElementById("report");
  const kept = JSON.parse(holder.textContent);
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const kinds = new Set(style.kinds);
  const drawn = [];
  const waiting = [];
  let busy = false;

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // What turns, hides or breaks text is written as its code point, as in the rest of the page.
  const hidden = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u2800]/gu;
  const visible = (text) =>
    text.replace(hidden, (one) =>
      one === "\n" ? one : `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

  // A copy with plain strings; the figure in the JSON stays as it is.
  const copied = (value) => {
    if (typeof value === "string") return visible(value);
    if (Array.isArray(value)) return value.map(copied);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, copied(one)]));
  };

  const traces = (figure) =>
    copied(figure.data ?? [])
      .filter((trace) => kinds.has(trace.type ?? "scatter"))
      .map((trace) => (trace.type === "scattergl" ? { ...trace, type: "scatter" } : trace));

  // Titles of horizontal axes in as many lines as a narrow page needs; a letter is 8 pixels wide.
  const folded = (text, width) => {
    const most = Math.max(width / 8, 12);
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (longer.length <= most || !lines.at(-1)) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines.join("<br>");
  };

  const layout = (figure, element) => {
    const made = copied(figure.layout ?? {});
    for (const [name, axis] of Object.entries(made)) {
      const title = name.startsWith("xaxis") ? axis?.title : null;
      // What holds markup is left as it is.
      if (typeof title?.text === "string" && !title.text.includes("<"))
        title.text = folded(title.text, 0.65 * element.clientWidth);
    }
    // Pictures from elsewhere, and controls that a report does not use.
    for (const name of ["images", "updatemenus", "sliders", "template", "width"]) delete made[name];
    const text = style.text[isDark() ? "dark" : "light"];
    const box = isDark() ? "#1a2029" : "#ffffff";
    made.template = structuredClone(style.template);
    made.font = { ...made.font, color: text };
    made.hoverlabel = { bgcolor: box, bordercolor: "#8a9099", font: { color: text } };
    made.modebar = { bgcolor: "rgba(0,0,0,0)", color: "#8a9099", activecolor: text };
    made.autosize = true;
    made.height = Number(element.dataset.height);
    return made;
  };

  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    plotlyServerURL: "",
  };

  const place = (element) =>
    element.dataset.figure.split(".").reduce((inner, name) => inner[name], kept);

  const draw = async (element) => {
    const figure = place(element);
    element.hidden = false;
    element.parentElement.classList.add("live");
    try {
      await Plotly.newPlot(element, traces(figure), layout(figure, element), options);
      drawn.push(element);
    } catch {
      // The still picture stays.
      element.hidden = true;
      element.parentElement.classList.remove("live");
    }
  };

  // One figure a turn of the browser's own work, so that dozens of them never stop the page.
  const next = async () => {
    const element = waiting.shift();
    busy = element !== undefined;
    if (!busy) return;
    await draw(element);
    setTimeout(next, 0);
  };

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        near.unobserve(entry.target);
        waiting.push(entry.target.querySelector(".drawn"));
      }
      if (!busy) next();
    },
    { rootMargin: "800px 0px" },
  );
  for (const element of document.querySelectorAll(".drawn")) near.observe(element.parentElement);

  const dressed = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    for (const element of drawn) {
      const figure = place(element);
      Plotly.react(element, traces(figure), layout(figure, element), options);
    }
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    dressed();
  });
  system.addEventListener("change", dressed);
  dressed();
})();
