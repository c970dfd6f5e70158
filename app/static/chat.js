// All text enters the page as text, so nothing that was said or stored becomes markup.
const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
const status = (text) => { $("status").textContent = text; };
const WHO = { guest: "You", concierge: "Concierge", tool: "Tool", approval: "Concierge" };
const CHOICES = [["approve", "Yes, do it"], ["reject", "No, leave it"]];
const AWAY = "The concierge is away. Your words are kept here; it goes on by itself.";
const THINKING = "The concierge is thinking …";
const said = $("said"), list = $("list"), words = $("text"), send = $("send");
const memory = sessionStorage; // of this tab: the conversation in front; a new one has no id yet
let latest = 0; // counts what begins, so that what is no longer in front stops

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const post = body && { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(`api/${path}`, post).catch(() => null);
  if (answer?.ok) return answer;
  const why = await answer?.json().catch(() => null);
  throw Object.assign(new Error(why?.detail ?? AWAY), { status: answer?.status ?? 503 });
}

function say({ type, text, interrupt }, place = said) {
  const last = place.lastElementChild;
  if (type === "concierge" && last?.className === type) return last.append(text);
  const line = make("p", { className: type });
  line.append(make("b", { textContent: WHO[type] }), text);
  for (const [decision, textContent] of interrupt ? CHOICES : [])
    line.append(make("button", { textContent, onclick: () => turn({ interrupt, decision }) }));
  place.append(line);
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
  let event = {};
  send.disabled = true;
  status(THINKING);
  try {
    for await (event of events(await call("turns", { conversation: memory.front || null, ...given }))) {
      if (mine !== latest) return;
      if (event.type === "conversation") {
        memory.front = event.id;
        said.querySelectorAll("button").forEach((button) => button.remove());
        if (given.text) {
          say({ type: "guest", text: given.text });
          if (words.value.startsWith(given.text)) words.value = words.value.slice(given.text.length);
        }
      } else if (WHO[event.type]) say(event);
      said.scrollTop = said.scrollHeight;
    }
  } catch (error) {
    // Another tab or a restart has gone on: what is shown here is out of date.
    if ([404, 409].includes(error.status) && mine === latest) return show(memory.front, error.message);
    event = error.status < 500 ? { type: "error", text: error.message } : { text: AWAY };
  }
  if (mine !== latest) return;
  status(event.text ?? "");
  send.disabled = false;
  if (event.type !== "error" && event.type !== "end") await pause(1000);
  if (event.type !== "error" && mine === latest) show(memory.front);
}

// Shows what is stored, and looks again while a turn runs elsewhere or the server is away.
async function show(id, note = "") {
  const mine = ++latest;
  memory.front = id;
  for (let waited = false; mine === latest; await pause(1000), waited = true) {
    try {
      const found = await (await call(id ? `conversations/${id}` : "conversations")).json();
      if (mine !== latest) return;
      const lines = document.createElement("div");
      for (const line of found.lines) say(line, lines);
      if (lines.innerHTML !== said.innerHTML) said.replaceChildren(...lines.childNodes);
      said.scrollTop = said.scrollHeight;
      list.replaceChildren(new Option("Your conversations", ""));
      for (const { id: value, title } of found.titles) list.add(new Option(title, value));
      list.value = id;
      if (found.waits === "the rest") return turn({});
      send.disabled = found.waits === "a turn";
      status(send.disabled ? note || THINKING : waited ? "" : note);
      if (!send.disabled) return;
    } catch (error) {
      if (error.status === 404) return show("", error.message);
      status(error.message);
      if (error.status < 500) return;
    }
  }
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  const word = words.value.toLowerCase().replace(/\W/g, "");
  const meant = said.querySelectorAll("button")[["yes", "no"].indexOf(word)];
  if (!meant) return turn({ text: words.value });
  words.value = "";
  meant.click();
};
list.onchange = () => show(list.value);
$("new").onclick = () => { words.focus(); show(""); };
$("forget").onclick = async () => {
  if (!confirm("Delete all your conversations, and what the concierge knows about you?")) return;
  try {
    const { conversations, memories } = await (await call("forget", {})).json();
    show("", `Deleted conversations: ${conversations}, memories: ${memories}.`);
  } catch (error) { show(memory.front, error.message); };
};
show(memory.front ?? "");
