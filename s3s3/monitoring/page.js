"use strict";
(() => {
  const live = document.getElementById("live");
  const token = document.getElementById("token");
  let source = null;

  const say = (text, kind) => {
    if (live.textContent !== text) live.textContent = text;
    live.className = "live " + kind;
  };

  // The server has escaped all of it. Whoever is at a button stays there.
  const replace = (id, html) => {
    const part = document.getElementById(id);
    if (!part) return;
    const at = part.contains(document.activeElement) ? document.activeElement.value : null;
    part.innerHTML = html;
    if (at !== null) for (const button of part.querySelectorAll("button")) if (button.value === at) button.focus();
  };

  const open = () => {
    if (source) return;
    source = new EventSource("events");
    source.onmessage = (event) => {
      say("live", "on");
      for (const [id, html] of Object.entries(JSON.parse(event.data))) replace(id, html);
    };
    source.onerror = () => {
      say("no connection to s3s3; trying again", "off");
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
  say("connecting", "");
  if (!document.hidden) open();
})();
