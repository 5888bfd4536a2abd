// A browser with a person at it: goes to an address, signs in as PERSON, agrees to what is asked, follows where it is sent, and prints the
// last page. With PERSON=nobody they turn back at the form. Each address on the way is a line of the file VISITED.
import { appendFileSync } from "node:fs";

const { PERSON, VISITED } = process.env;
const STEPS = 30;
const cookies = new Map();

async function ask(address, form) {
  if (VISITED) appendFileSync(VISITED, `${address}\n`);
  const jar = cookies.get(address.origin) ?? new Map();
  cookies.set(address.origin, jar);
  const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
  const body = form && new URLSearchParams(form);
  const answer = await fetch(address, { method: form ? "POST" : "GET", body, redirect: "manual", headers: { cookie } });
  for (const line of answer.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    if (value === "") jar.delete(name);
    else jar.set(name, value);
  }
  return answer;
}

let address = new URL(process.argv[2]);
let answer = await ask(address);
for (let step = 0; step < STEPS; step += 1) {
  const location = answer.headers.get("location");
  if (location) {
    address = new URL(location, address);
    answer = await ask(address);
    continue;
  }
  const page = await answer.text();
  const prompt = page.match(/name="prompt" value="([a-z]+)"/)?.[1];
  if (!prompt) {
    console.log(page);
    process.exit(0);
  }
  if (PERSON === "nobody") {
    address = new URL(`${address.pathname}/abort`, address);
    answer = await ask(address);
    continue;
  }
  address = new URL(page.match(/<form[^>]*action="([^"]+)"/)[1], address);
  answer = await ask(address, prompt === "login" ? { prompt, login: PERSON, password: "secret" } : { prompt });
}
console.error("sent around in a circle");
process.exit(1);
