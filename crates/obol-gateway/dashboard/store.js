// What is known of the program: one entry for each resource, loaded when a view wants it, changed by live events.
import { upsert } from './paging.js';

const PATHS = {
  status: 'status', balances: 'balances', peers: 'peers', circuits: 'circuits', tunnels: 'tunnels', tariff: 'tariff', limits: 'limits',
  budgets: 'budgets', ceilings: 'ceilings', escrows: 'escrows?limit=200&order=asc', invoices: 'invoices?limit=50', transfers: 'transfers?limit=50',
};

/** What an event makes stale beyond its own resource. `history` is what the charts show. */
const STALE = {
  payment: ['history', 'peers', 'circuits', 'tunnels', 'limits', 'balances', 'budgets', 'payments'],
  payment_request: ['history', 'payments', 'tunnels'],
  refusal: ['history', 'payments', 'circuits', 'tunnels'],
  escrow: ['limits', 'balances', 'peers'],
  balance: ['limits'],
  gap: [...Object.keys(PATHS), 'history', 'payments'],
};

const AT_MOST_EVERY = 4000;
const AT_LEAST_EVERY = 30_000;

export class Store {
  constructor(api) {
    this.api = api;
    this.entries = new Map();
    this.paths = { ...PATHS };
    this.wanted = new Set(['status']);
    this.watchers = new Set();
    this.loading = new Map();
    this.timers = new Map();
    this.clockSkew = 0;
    this.warnings = [];
  }

  /** The value of a resource, or null; `error(name)` says why. */
  get(name) {
    return this.entries.get(name)?.value ?? null;
  }

  error(name) {
    return this.entries.get(name)?.error ?? null;
  }

  /** Neither value nor error yet. */
  pending(name) {
    return !this.entries.has(name);
  }

  /** The program's own clock, in seconds. */
  now() {
    return Math.floor(Date.now() / 1000 + this.clockSkew);
  }

  get code() {
    return this.get('status')?.asset?.code ?? '';
  }

  watch(watcher) {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  changed(name) {
    for (const watcher of this.watchers) watcher(name);
  }

  set(name, value, error = null) {
    if (name === 'status' && value) this.clockSkew = Number(value.now) - Date.now() / 1000;
    // An error leaves the last known value where it was: old figures with a remark are more use than none.
    this.entries.set(name, { value: value ?? (error ? this.get(name) : null), error, at: Date.now() });
    this.changed(name);
  }

  /** From now on these, and only these, are kept fresh; what is not known yet is fetched. */
  want(names) {
    this.wanted = new Set(['status', ...names]);
    for (const name of this.wanted) {
      const entry = this.entries.get(name);
      if (!entry || Date.now() - entry.at > AT_MOST_EVERY) this.load(name);
    }
  }

  /** Names a resource with a path of its own, like the history of one range. */
  path(name, path) {
    if (this.paths[name] === path) return;
    this.paths[name] = path;
  }

  load(name) {
    if (!this.paths[name]) return Promise.resolve();
    const path = this.paths[name];
    if (this.loading.get(name)?.path === path) return this.loading.get(name).promise;
    const promise = this.api.get(path)
      .then(value => this.paths[name] === path && this.set(name, value), error => this.paths[name] === path && error.status !== 401 && this.set(name, null, error))
      .finally(() => this.loading.get(name)?.path === path && this.loading.delete(name));
    this.loading.set(name, { path, promise });
    return promise;
  }

  /** Fetches soon, and not too often. */
  touch(name) {
    if (name === 'payments') {
      this.later('payments', () => this.changed('payments'), 1000);
      return;
    }
    if (!this.wanted.has(name) || document.hidden) {
      // Looked up when somebody looks.
      if (this.entries.has(name)) this.entries.get(name).at = 0;
      return;
    }
    const age = Date.now() - (this.entries.get(name)?.at ?? 0);
    this.later(name, () => this.load(name), Math.max(250, AT_MOST_EVERY - age));
  }

  later(name, run, ms) {
    if (this.timers.has(name)) return;
    this.timers.set(name, setTimeout(() => {
      this.timers.delete(name);
      run();
    }, ms));
  }

  /** A live event. */
  event(name, data) {
    if (name === 'status') this.set('status', data);
    else if (name === 'balance') this.set('balances', data);
    else if (name === 'tunnel') this.put('tunnels', data, 'tunnel');
    else if (name === 'escrow') this.put('escrows', data, 'escrow');
    else if (name === 'warning') {
      this.warnings = [{ at: this.now(), text: String(data.text) }, ...this.warnings].slice(0, 20);
      this.changed('warnings');
    }
    for (const stale of STALE[name] ?? []) this.touch(stale);
  }

  put(name, record, id) {
    const list = this.get(name);
    if (list) this.set(name, { ...list, records: upsert(list.records, record, id) });
  }

  /** What no event tells is looked up again from time to time. */
  refresh() {
    for (const name of this.wanted) {
      if (Date.now() - (this.entries.get(name)?.at ?? 0) > AT_LEAST_EVERY) this.load(name);
    }
  }

  stop() {
    for (const timer of this.timers.values()) clearTimeout(timer);
    this.watchers.clear();
  }
}
