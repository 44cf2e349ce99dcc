"use strict";
(() => {
  const live = document.getElementById("live");
  const token = document.getElementById("token");
  let source = null;

  const show = (text, kind) => {
    if (live.textContent !== text) live.textContent = text;
    live.className = "live " + kind;
  };

  // The server has escaped the HTML. A focused button keeps the focus.
  const replace = (id, html) => {
    const part = document.getElementById(id);
    if (!part) return;
    const focused = part.contains(document.activeElement) ? document.activeElement.value : null;
    part.innerHTML = html;
    if (focused === null) return;
    for (const button of part.querySelectorAll("button")) if (button.value === focused) button.focus();
  };

  const open = () => {
    if (source) return;
    source = new EventSource("events");
    source.onmessage = (event) => {
      show("live", "on");
      for (const [id, html] of Object.entries(JSON.parse(event.data))) replace(id, html);
    };
    source.onerror = () => {
      show("connection lost; reconnecting", "off");
      if (source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(open, 5000);
      }
    };
  };

  const close = () => {
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (button && button.className === "drop" && !confirm("Drop this dead letter? Its object will not be copied.")) {
      event.preventDefault();
    } else if (token) {
      sessionStorage.setItem("s3s3-token", token.value);
    }
  });
  if (token) token.value = sessionStorage.getItem("s3s3-token") || "";
  show("connecting", "");
  if (!document.hidden) open();
})();
