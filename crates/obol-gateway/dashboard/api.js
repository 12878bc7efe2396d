// The HTTP API: requests with the token, problems in words, live events.
import { parse, stringify } from './json.js';
import { EventParser, backOff } from './sse.js';

const QUIET = 45_000; // A stream that says nothing for so long, not even its comment of every 15 s, is dead.

/** What went wrong, in words: `title` and `detail` of a problem document, or what the network did. */
export class ApiError extends Error {
  constructor(status, title, detail, type = '') {
    super(detail ? `${title.replace(/\.$/, '')}: ${detail}` : title);
    this.status = status;
    this.type = type;
  }

  get notForThisRole() {
    return this.status === 404 && this.type.endsWith('/not-for-this-role');
  }
}

export class Api {
  constructor(token, onUnauthorized) {
    this.token = token;
    this.onUnauthorized = onUnauthorized;
    this.stopped = new AbortController();
    this.unanswered = new Map();
  }

  headers(more = {}) {
    return { Authorization: `Bearer ${this.token}`, Accept: 'application/json', ...more };
  }

  async request(method, path, body, headers = {}) {
    let response;
    try {
      response = await fetch(`/api/v1/${path}`, {
        method,
        headers: this.headers(body === undefined ? headers : { 'Content-Type': 'application/json', ...headers }),
        body: body === undefined ? undefined : stringify(body),
        cache: 'no-store',
        credentials: 'omit',
        signal: AbortSignal.any([this.stopped.signal, AbortSignal.timeout(30_000)]),
      });
    } catch (error) {
      if (this.stopped.signal.aborted) throw new ApiError(0, 'Stopped');
      throw new ApiError(0, error.name === 'TimeoutError' ? 'No answer within 30 seconds' : 'The program does not answer');
    }
    const text = await response.text().catch(() => '');
    let value = null;
    try {
      value = text === '' ? null : parse(text);
    } catch {
      // An answer that is no JSON: only the status counts.
    }
    if (response.ok) {
      if (value === null && response.status !== 204) throw new ApiError(response.status, 'The answer cannot be read');
      return value;
    }
    const problem = value && typeof value === 'object' ? value : {};
    if (response.status === 401) this.onUnauthorized();
    throw new ApiError(response.status, String(problem.title ?? `Refused with status ${response.status}`), problem.detail ?? null,
      String(problem.type ?? ''));
  }

  get(path) {
    return this.request('GET', path);
  }

  put(path, body) {
    return this.request('PUT', path, body);
  }

  post(path, body) {
    return this.request('POST', path, body);
  }

  /** For what must not happen twice: while nobody knows whether it arrived, the same request has the same Idempotency-Key. */
  async postOnce(path, body) {
    const text = stringify(body);
    const known = this.unanswered.get(path);
    const key = known?.text === text ? known.key : Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');
    this.unanswered.set(path, { text, key });
    try {
      const answer = await this.request('POST', path, body, { 'Idempotency-Key': key });
      this.unanswered.delete(path);
      return answer;
    } catch (error) {
      if (error.status >= 400 && error.status < 500) this.unanswered.delete(path);
      throw error;
    }
  }

  /** Reads live events until stop(); `on.event(name, data)`, `on.state('connecting' | 'live' | 'lost', seconds until the next try, failed tries before)`. */
  async listen(on) {
    let lastId = '';
    for (let tries = 0; !this.stopped.signal.aborted; tries += 1) {
      on.state('connecting');
      let opened = false;
      try {
        for await (const event of this.stream(lastId, () => {
          opened = true;
          on.state('live');
        })) {
          lastId = event.id || lastId;
          on.event(event.name, parse(event.data));
        }
      } catch (error) {
        if (error.status === 401) return;
      }
      if (opened) tries = 0;
      if (this.stopped.signal.aborted) return;
      const seconds = backOff(tries);
      on.state('lost', seconds, tries);
      await new Promise(resolve => {
        const timer = setTimeout(resolve, seconds * 1000);
        this.retryNow = () => {
          clearTimeout(timer);
          resolve();
        };
        this.stopped.signal.addEventListener('abort', this.retryNow, { once: true });
      });
    }
  }

  async* stream(lastId, onOpen) {
    const quiet = new AbortController();
    let timer = setTimeout(() => quiet.abort(), QUIET);
    try {
      const response = await fetch('/api/v1/events', {
        headers: this.headers({ Accept: 'text/event-stream', ...(lastId ? { 'Last-Event-ID': lastId } : {}) }),
        cache: 'no-store',
        credentials: 'omit',
        signal: AbortSignal.any([this.stopped.signal, quiet.signal]),
      });
      if (response.status === 401) this.onUnauthorized();
      if (!response.ok || !response.body) throw new ApiError(response.status, 'No live events');
      onOpen();
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => quiet.abort(), QUIET);
        yield* parser.feed(value);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  stop() {
    this.stopped.abort();
  }
}
