// An OpenID provider on 127.0.0.1: `oidc-provider` with its own pages for signing in, where everybody may be whoever they say. Its keys are
// new with each start. Settings come from the environment:
//   PORT      where it listens; 0 takes any free port
//   ISSUER    whom it says it is; its own address without it
//   CLIENT    JSON: id, secret and redirect address of its one client
//   PEOPLE    file with the claims of people by name, as JSON; read at each sign-in
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const { PORT = "0", ISSUER, CLIENT, PEOPLE } = process.env;
const client = JSON.parse(CLIENT);

function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" };
}

function person(name) {
  const claims = JSON.parse(readFileSync(PEOPLE, "utf8"))[name];
  return claims && { accountId: name, claims: async () => ({ sub: name, ...claims }) };
}

const server = createServer();
server.listen(Number(PORT), "127.0.0.1", () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(ISSUER ?? address, {
    clients: [
      {
        client_id: client.id,
        client_secret: client.secret,
        redirect_uris: [client.redirect],
        grant_types: ["authorization_code"],
        response_types: ["code"],
      },
    ],
    findAccount: async (_, name) => person(name),
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
    conformIdTokenClaims: false,
    cookies: { keys: [randomUUID()] },
    jwks: { keys: [newKey()] },
  });
  server.on("request", provider.callback());
  console.log(`listening at ${address}`);
});
