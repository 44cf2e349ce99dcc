"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const live = byId("live");
  const token = byId("token");
  const message = byId("message");
  const TOKEN = "s3s3-token";
  let source = null;

  document.documentElement.className = "";

  // -- texts

  // The same as `printable` of the server: a key cannot change the direction of the text around it, or hide in it.
  const printable = (text) =>
    String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
  const time = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";
  const count = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
  const size = (bytes) => bytes.toLocaleString("en") + " B";

  // An element with children: texts are inserted as text, never as HTML.
  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    for (const child of children)
      if (child !== null && child !== "") made.append(child instanceof Node ? child : printable(child));
    return made;
  };
  const key = (text) => element("bdi", "key", text);
  const button = (label, about, className, onClick) => {
    const made = element("button", className, label, element("span", "visually-hidden", " " + about));
    made.type = "button";
    made.addEventListener("click", onClick);
    return made;
  };

  const say = (text) => {
    message.textContent = printable(text);
    message.hidden = false;
  };

  // -- the API

  // A value that `encode_request` made: [path, body].
  const decode = (value) => {
    const binary = atob(value.replace(/-/g, "+").replace(/_/g, "/"));
    const [path, body] = JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (c) => c.charCodeAt(0))));
    return [path, JSON.parse(body)];
  };

  const call = async (path, body, query) => {
    const headers = {};
    // A header consists of bytes: those of the token in UTF-8.
    if (token && token.value) headers["Authorization"] = "Bearer " + String.fromCharCode(...new TextEncoder().encode(token.value));
    if (body) headers["Content-Type"] = "application/json";
    const given = query ? "?" + new URLSearchParams(query) : "";
    const response = await fetch("api/v1" + path + given, {
      method: body ? "POST" : "GET", headers, body: body ? JSON.stringify(body) : undefined,
    });
    const content = await response.json().catch(() => ({ detail: "the answer is not JSON: HTTP " + response.status }));
    if (!response.ok) throw new Error(content.detail || "HTTP " + response.status);
    return content;
  };

  const RESULTS = { "/dead-letters/retry": "put back on the queue", "/dead-letters/drop": "dropped" };

  // Change something; return whether it worked. The result or the error is shown.
  const change = async (path, body) => {
    if (token) sessionStorage.setItem(TOKEN, token.value);
    if (path === "/dead-letters/drop" && !confirm("Drop these dead letters? Their objects will not be copied.")) return false;
    try {
      const answer = await call(path, body);
      say(answer.message || count(answer.count, "dead letter") + " " + RESULTS[path]);
      return true;
    } catch (error) {
      say("Nothing changed: " + error.message);
      return false;
    }
  };

  // -- lists with pages

  // Show a page of a list, with a button for the next one.
  const showPage = async (box, path, query, item, nothing) => {
    let page;
    try {
      page = await call(path, null, { limit: 20, ...query });
    } catch (error) {
      box.replaceChildren(element("p", "reason", error.message));
      return;
    }
    const list = element("ul", "dead-letters", ...page.items.map((each) => item(each, page)));
    const parts = page.items.length ? [list] : [element("p", "nothing", page.cursor ? "None on this page." : nothing)];
    if (page.cursor) {
      const next = { ...query, cursor: page.cursor };
      parts.push(button("Next page", "", "next", () => showPage(box, path, next, item, nothing)));
    }
    box.replaceChildren(...parts);
  };

  const letterItem = (letter) => {
    const selection = { route: letter.route, destination: letter.destination, keys: [letter.key] };
    const buttons = element("span", "buttons");
    const line = element("li", "", key(letter.key));
    const act = async (path) => (await change(path, selection)) && line.remove();
    if (token && letter.destination !== "(message)")
      buttons.append(button("Retry", letter.key, "retry", () => act("/dead-letters/retry")));
    if (token) buttons.append(button("Drop", letter.key, "drop", () => act("/dead-letters/drop")));
    const attempts = letter.attempts ? " · " + count(letter.attempts, "attempt") : "";
    line.append(buttons, element("p", "reason", letter.reason), element("p", "when", time(letter.dead_lettered_ms) + attempts));
    return line;
  };

  let letters = null;
  const showLetters = () => {
    const query = { ...letters, search: byId("letters-search").value };
    showPage(byId("letters"), "/dead-letters", query, letterItem, "None.");
  };

  const jobItem = (job, page) => {
    const parts = [job.phase || "done", job.lane, "for " + job.destinations.join(", ")].filter((part) => part && part !== "for ");
    if (job.owner) parts.push("process " + job.owner);
    for (const [name, attempts] of Object.entries(job.attempts)) if (attempts) parts.push(name + ": " + count(attempts, "failure"));
    const next = job.next_attempt_ms === null ? "" : "next attempt " + time(job.next_attempt_ms) + ", in " +
      Math.max(0, Math.round((job.next_attempt_ms - page.now_ms) / 1000)).toLocaleString("en") + " s";
    const line = element("li", "", key(job.key), element("p", "reason", parts.join(" · ")));
    if (job.waits_for) line.append(element("p", "reason", "waits: " + job.waits_for));
    line.append(element("p", "when", [job.notified_ms ? "since " + time(job.notified_ms) : "", next].filter(Boolean).join(" · ")));
    if (token)
      line.append(element("span", "buttons", button("Explain", job.key, "show", () => {
        byId("explain-key").value = job.key;
        byId("explain-form").requestSubmit();
        byId("explain-form").scrollIntoView();
      })));
    return line;
  };

  // -- explain

  // A reason without the store's name at its beginning, which its label has already.
  const plain = (reason, store) => (reason.startsWith(store + ": ") ? reason.slice(store.length + 2) : reason);

  const objectText = (state) => {
    if (state.exists === false) return "does not have it";
    if (!state.exists) return state.error ? plain(state.error, state.store) : "unknown";
    const parts = [size(state.size_bytes), "ETag " + (state.etag || "none")];
    if (state.modified_ms) parts.push("written " + time(state.modified_ms));
    if (state.error) parts.push(state.error);
    return parts.join(", ");
  };

  const fact = (label, ...texts) => element("div", "", element("dt", "", label), ...texts.map((text) => element("dd", "", text)));

  const explained = (route) => {
    const box = element("article", "group", element("h3", "", route.route));
    if (route.mismatch) {
      box.append(element("p", "reason", "does not match: " + route.mismatch));
      if (route.hint) box.append(element("p", "reason", "it matches ", key(route.hint)));
      return box;
    }
    const facts = element("dl", "explained", fact("source " + route.source.store, objectText(route.source)));
    for (const each of route.destinations) {
      const texts = [objectText(each.object), each.text];
      const reason = (text) => plain(text, each.object.store);
      if (each.circuit) texts.push(each.circuit === "paused" ? "paused by an operator" : "down: " + reason(each.circuit));
      for (const [title, failure] of [["dead letter since ", each.dead_letter], ["last failure ", each.last_failure]]) {
        if (!failure) continue;
        texts.push(title + time(failure.at_ms) + ": " + reason(failure.reason));
        for (const earlier of failure.earlier) texts.push("earlier failure " + time(earlier.at_ms) + ": " + reason(earlier.reason));
      }
      facts.append(fact("destination " + each.object.store, ...texts));
    }
    facts.append(fact("queue", route.queue ? route.queue.text : route.queue_error), fact("id in the log", route.log_id));
    if (route.next_steps.length) facts.append(fact("next", ...route.next_steps));
    box.append(facts);
    return box;
  };

  const explain = async () => {
    const box = byId("explanation");
    box.replaceChildren(element("p", "nothing", "Asking the stores …"));
    if (token) sessionStorage.setItem(TOKEN, token.value);
    try {
      const found = await call("/explain", null, { key: byId("explain-key").value });
      box.replaceChildren(...found.routes.map(explained));
    } catch (error) {
      box.replaceChildren(element("p", "reason", error.message));
    }
  };

  // -- live updates

  const show = (text, kind) => {
    if (live.textContent !== text) live.textContent = text;
    live.className = "live " + kind;
  };

  // The server has escaped the HTML. A focused button or link keeps the focus.
  const identity = (node) => (node.dataset.api || "") + (node.dataset.letters || "") + (node.value || node.href || "");
  const replace = (id, html) => {
    const part = byId(id);
    if (!part) return;
    const focused = part.contains(document.activeElement) ? identity(document.activeElement) : null;
    part.innerHTML = html;
    if (focused === null) return;
    for (const each of part.querySelectorAll("button, a")) if (identity(each) === focused) each.focus();
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
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    if (pressed.dataset.span) {
      document.documentElement.classList.toggle("show-day", pressed.dataset.span === "day");
      for (const each of document.querySelectorAll("[data-span]")) each.ariaPressed = String(each === pressed);
    } else if (pressed.dataset.api) {
      event.preventDefault();
      change(...decode(pressed.dataset.api));
    } else if (pressed.dataset.letters) {
      letters = decode(pressed.dataset.letters)[1];
      byId("letters-section").hidden = false;
      byId("letters-group").textContent = printable(letters.route + " → " + letters.destination + ": " + letters.reason);
      byId("letters-search").value = "";
      showLetters();
      byId("letters-title").focus();
    }
  });
  const onSubmit = (id, run) => {
    const form = byId(id);
    if (form) form.addEventListener("submit", (event) => {
      event.preventDefault();
      run();
    });
  };
  onSubmit("explain-form", explain);
  onSubmit("letters-form", showLetters);
  onSubmit("jobs-form", () => {
    const [path, query] = decode(byId("jobs-what").value);
    showPage(byId("jobs"), path, { ...query, search: byId("jobs-search").value }, jobItem, "None.");
  });
  if (token) token.value = sessionStorage.getItem(TOKEN) || "";
  show("connecting", "");
  if (!document.hidden) open();
})();
