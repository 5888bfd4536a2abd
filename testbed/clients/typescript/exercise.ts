// Works with the service through a client that is made from the description of the API: pages, an idempotency key, a revision, a
// refusal, events. Address and token come from the environment, the authority through NODE_EXTRA_CA_CERTS.
import { strict as assert } from "node:assert";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Group = components["schemas"]["Group"];
type Problem = components["schemas"]["Problem"];

function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `the environment has no ${name}`);
  return value;
}

const api = createClient<paths>({
  baseUrl: setting("MBL_API"),
  headers: { authorization: `Bearer ${setting("MBL_TOKEN")}` },
});

/** What was asked for; a refusal ends the program with its code. */
function given<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  assert.ok(answer.data !== undefined, `${answer.response.status}: ${JSON.stringify(answer.error)}`);
  return answer.data;
}

/** The refusal that was expected, with this status and this code. */
function refused(answer: { error?: Problem; response: Response }, status: number, code: string): Problem {
  assert.equal(answer.response.status, status);
  assert.match(answer.response.headers.get("content-type") ?? "", /^application\/problem\+json/);
  assert.ok(answer.error, "a refusal has a problem");
  assert.equal(answer.error.code, code);
  assert.equal(answer.error.type, `urn:mbl:problem:${code}`);
  return answer.error;
}

/** The names of all groups, two a page. */
async function groups(): Promise<{ names: string[]; pages: number }> {
  const names: string[] = [];
  let pages = 0;
  let cursor: string | undefined;
  do {
    const query = cursor === undefined ? { limit: 2 } : { limit: 2, cursor };
    const page = given(await api.GET("/api/v1/groups", { params: { query } }));
    names.push(...page.items.map((group) => group.name));
    cursor = page.next ?? undefined;
    pages += 1;
  } while (cursor !== undefined && pages < 100);
  return { names, pages };
}

/** The endpoints of all devices, two a page. */
async function devices(): Promise<string[]> {
  const endpoints: string[] = [];
  let cursor: string | undefined;
  for (let pages = 0; pages < 100; pages += 1) {
    const query = cursor === undefined ? { limit: 2 } : { limit: 2, cursor };
    const page = given(await api.GET("/api/v1/devices", { params: { query } }));
    assert.ok(page.items.length <= 2);
    endpoints.push(...page.items.map((device) => device.endpoint));
    if (page.next == null) break;
    cursor = page.next;
  }
  return endpoints;
}

async function made(name: string, key: string): Promise<Group> {
  return given(
    await api.POST("/api/v1/groups", {
      params: { header: { "idempotency-key": key } },
      body: { name, title: `Group ${name}`, members: ["gate-1"] },
    }),
  );
}

const expected = JSON.parse(setting("MBL_DEVICES")) as string[];
assert.deepEqual((await devices()).sort(), expected.sort(), "the pages hold every device once");

const names = ["ts-a", "ts-b", "ts-c", "ts-d", "ts-e"];
for (const name of names) {
  const first = await made(name, `key-${name}`);
  const again = await made(name, `key-${name}`);
  assert.deepEqual(again, first, "the same request with the same key is answered as before");
}
const listed = await groups();
assert.deepEqual(listed.names.filter((name) => name.startsWith("ts-")), names);
assert.ok(listed.pages >= 3, "five groups need three pages of two");

const reused = await api.POST("/api/v1/groups", {
  params: { header: { "idempotency-key": "key-ts-a" } },
  body: { name: "ts-other" },
});
refused(reused, 422, "idempotency_key_reused");

const path = { name: "ts-a" };
const shown = await api.GET("/api/v1/groups/{name}", { params: { path } });
given(shown);
const etag = shown.response.headers.get("etag");
assert.ok(etag, "a group has an ETag");
const change = { title: "Another title", add: ["gate-2"] };
const changed = given(
  await api.PATCH("/api/v1/groups/{name}", { params: { path, header: { "if-match": etag } }, body: change }),
);
assert.equal(changed.title, "Another title");
assert.equal(changed.members, 2);

const stale = await api.PATCH("/api/v1/groups/{name}", {
  params: { path, header: { "if-match": etag } },
  body: { title: "Too late" },
});
refused(stale, 412, "stale");
const missing = await api.GET("/api/v1/groups/{name}", { params: { path: { name: "ts-nothing" } } });
refused(missing, 404, "not_found");
const unreadable = await api.GET("/api/v1/devices", { params: { query: { filter: "no_such_field = 1" } } });
assert.equal(refused(unreadable, 422, "malformed_filter").at, 0, "the problem says where in the filter");

const limit = missing.response.headers.get("ratelimit");
assert.match(limit ?? "", /^"account";r=\d+;t=\d+$/, "every answer tells how often the account may still ask");

const endpoint = expected[0];
assert.ok(endpoint);
const device = await api.GET("/api/v1/devices/{endpoint}", { params: { path: { endpoint } } });
given(device);
const revision = device.response.headers.get("etag");
assert.ok(revision, "a device has an ETag");
const tagged = await api.PATCH("/api/v1/devices/{endpoint}", {
  params: { path: { endpoint }, header: { "if-match": revision } },
  body: { tags: { add: ["from-typescript"] } },
});
assert.deepEqual(given(tagged).tags, ["from-typescript"]);
const events = given(await api.GET("/api/v1/events", { params: { query: { limit: 500 } } }));
const about = events.items.filter((event) => event.subject === `devices/${endpoint}`).map((event) => event.type);
assert.ok(about.includes("device.changed"), `the events tell of the change: ${about.join(" ")}`);
console.log(JSON.stringify({ devices: expected.length, groups: listed.names, about }));
