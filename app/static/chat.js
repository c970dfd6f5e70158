// All text enters the page as text, so nothing that was said or stored becomes markup.
const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const status = (text) => { $("status").textContent = text; };
const WHO = { guest: "You", concierge: "Concierge", tool: "Tool", approval: "Concierge" };
const CHOICES = [["approve", "Yes, do it"], ["reject", "No, leave it"]];
const AWAY = "The concierge is away. Your words are kept here; it goes on by itself.";
const THINKING = "The concierge is thinking …";
let current = ""; // the conversation in front; a new one has no id yet
let latest = 0; // counts what begins, so that what is no longer in front stops

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const post = body && { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(`api/${path}`, post).catch(() => null);
  if (answer?.ok) return answer;
  const said = await answer?.json().catch(() => null);
  throw Object.assign(new Error(said?.detail ?? AWAY), { status: answer?.status ?? 503 });
}

function add(place, tag, properties) {
  const element = Object.assign(document.createElement(tag), properties);
  place.append(element);
  return element;
}

function say({ type, text, interrupt }, place = $("said")) {
  const line = add(place, "p", { className: type });
  add(line, "b", { textContent: WHO[type] });
  line.append(text);
  for (const [decision, textContent] of interrupt ? CHOICES : [])
    add(line, "button", { textContent, onclick: () => turn({ interrupt, decision }) });
  return line;
}

// Reads the events of an answer to POST; EventSource only sends GET.
async function* events(answer) {
  let left = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    const parts = (left + piece).split("\n\n");
    left = parts.pop();
    for (const part of parts) if (part.startsWith("data:")) yield JSON.parse(part.slice(5));
  }
}

async function turn(given) {
  const mine = ++latest;
  let event = {}, line = null;
  $("send").disabled = true;
  status(THINKING);
  try {
    for await (event of events(await call("turns", { conversation: current || null, ...given }))) {
      if (mine !== latest) return;
      if (event.type === "conversation") {
        current = sessionStorage.current = event.id;
        for (const button of document.querySelectorAll("#said button")) button.remove();
        if (given.text) { say({ type: "guest", text: given.text }); $("text").value = ""; }
      } else if (event.type === "concierge" && line) line.append(event.text);
      else if (WHO[event.type]) line = event.type === "concierge" ? say(event) : void say(event);
      $("said").scrollTop = $("said").scrollHeight;
    }
  } catch (error) {
    event = error.status < 500 ? { type: "error", text: error.message } : { text: AWAY };
  }
  if (mine !== latest) return;
  status(event.text ?? "");
  $("send").disabled = false;
  if (event.type === "error") return;
  if (event.type !== "end") await pause(1000);
  if (mine === latest) show(current);
}

// Shows what is stored, and looks again while a turn runs elsewhere or the server is away.
async function show(id) {
  const mine = ++latest, said = $("said"), list = $("list");
  current = sessionStorage.current = id;
  for (; mine === latest; await pause(1000)) {
    try {
      const titles = await (await call("conversations")).json();
      const found = id ? await (await call(`conversations/${id}`)).json() : { lines: [] };
      if (mine !== latest) return;
      const lines = new DocumentFragment(), focused = list.contains(document.activeElement);
      found.lines.forEach((line) => say(line, lines));
      if (lines.textContent !== said.textContent) said.replaceChildren(lines);
      list.replaceChildren();
      for (const { id: value, title: textContent } of titles) {
        const button = add(add(list, "li"), "button", { textContent, onclick: () => show(value) });
        if (value === id) button.ariaCurrent = "true";
        if (value === id && focused) button.focus();
      }
      said.scrollTop = said.scrollHeight;
      $("send").disabled = found.waits === "a turn";
      status(found.waits === "a turn" ? THINKING : "");
      if (found.waits === "the rest") return turn({});
      if (found.waits !== "a turn") return;
    } catch (error) {
      if (error.status === 404) return show("");
      status(error.message);
      if (error.status < 500) return;
    }
  }
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  if ($("text").value.trim() && !$("send").disabled) turn({ text: $("text").value.trim() });
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("form").requestSubmit(); }
};
$("new").onclick = () => { $("text").focus(); show(""); };
$("forget").onclick = async () => {
  if (!confirm("Delete all your conversations, and what the concierge knows about you?")) return;
  try {
    const { conversations, memories } = await (await call("forget", {})).json();
    await show("");
    status(`Deleted conversations: ${conversations}, memories: ${memories}.`);
  } catch (error) { status(error.message); }
};
show(sessionStorage.current ?? "");
