"use strict";
// Keeps the page as it is on the server: each event carries the inside of <main>, and only what differs is changed, so that
// open rows, the focus and the place in the page stay.
(() => {
  const main = document.getElementById("main");
  const live = document.getElementById("live");

  function patch(from, to) {
    const olds = [...from.childNodes];
    const news = [...to.childNodes];
    news.forEach((next, n) => {
      const old = olds[n];
      if (!old) from.append(next);
      else if (old.nodeName !== next.nodeName || old.id !== next.id) old.replaceWith(next);
      else if (old.nodeType === Node.TEXT_NODE) { if (old.data !== next.data) old.data = next.data; }
      else { attributes(old, next); patch(old, next); }
    });
    olds.slice(news.length).forEach((old) => old.remove());
  }

  function attributes(old, next) {
    const keeps = (name) => name === "open" && old.nodeName === "DETAILS";
    for (const { name } of [...old.attributes]) if (!next.hasAttribute(name) && !keeps(name)) old.removeAttribute(name);
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value && !keeps(name)) old.setAttribute(name, value);
  }

  let events;
  function listen() {
    events?.close();
    events = new EventSource(document.body.dataset.events);
    events.onopen = () => { live.hidden = false; };
    events.onerror = () => { live.hidden = true; };
    events.onmessage = ({ data }) => {
      const next = document.createElement("template");
      next.innerHTML = data;
      patch(main, next.content);
    };
  }
  // Nobody looks at a page in the background.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { events?.close(); live.hidden = true; } else listen();
  });
  // What the page shows is in it already, so it is painted before it changes.
  requestAnimationFrame(() => setTimeout(listen));
})();
