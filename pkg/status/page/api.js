// Requests to the program that serves the page.

const timeout = 20_000;

/** ApiError is an answer that is not a success; text has the message in both languages, and status is 0 when there was no answer. */
export class ApiError extends Error {
  constructor(status, code, text) {
    super(text.en);
    this.status = status;
    this.code = code;
    this.text = text;
  }
}

const noAnswer = { en: "the program that serves this page does not respond", zh: "提供此页面的程序没有响应" };

async function request(method, path, body, headers) {
  let response;
  try {
    response = await fetch(path, { method, headers: { Accept: "application/json", ...headers }, body, cache: "no-store", redirect: "error",
      credentials: "same-origin", signal: AbortSignal.timeout(timeout) });
  } catch {
    throw new ApiError(0, "no_answer", noAnswer);
  }
  const text = await response.text().catch(() => "");
  let answer = null;
  try {
    answer = text === "" ? {} : JSON.parse(text);
  } catch {
    // What stands before the program, a reverse proxy for example, answers with pages.
  }
  if (response.ok && answer !== null) return answer;
  const failure = answer?.error;
  throw new ApiError(response.status, failure?.code ?? "http_" + response.status, failure?.message?.en ? failure.message :
    { en: `the request failed with HTTP status ${response.status}`, zh: `请求失败，HTTP 状态码 ${response.status}` });
}

export const get = (path) => request("GET", path);

let session = { token_set: false, signed_in: false, csrf: "", pictures: false };

/** currentSession returns what this browser may do. */
export const currentSession = () => session;

export async function loadSession() {
  session = { ...session, ...(await get("/api/session")) };
  return session;
}

function post(path, body) {
  return request("POST", path, JSON.stringify(body), { "Content-Type": "application/json", "X-CSRF-Token": session.csrf ?? "" });
}

export async function signIn(token) {
  await post("/api/session", { token });
  return loadSession();
}

export async function signOut() {
  await request("DELETE", "/api/session", undefined, { "X-CSRF-Token": session.csrf ?? "" });
  return loadSession();
}

/** act does an action and returns its result. */
export const act = (name, body) => post("/api/actions/" + name, body);
