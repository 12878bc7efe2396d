// The dashboard: token, role, views, connection, theme.
import { Api } from './api.js';
import { announce } from './common.js';
import { fill, h } from './dom.js';
import * as escrows from './escrows.js';
import * as log from './log.js';
import * as money from './money.js';
import { operatorViews } from './operator.js';
import { Store } from './store.js';
import { userViews } from './user.js';

const TOKEN = 'obol-token';
const THEME = 'obol-theme';
const $ = id => document.getElementById(id);
const shared = { ...escrows, ...log, ...money };

const isDark = theme => theme === 'dark' || (theme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);

function applyTheme(theme) {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const dark = isDark(theme);
  $('theme').setAttribute('aria-pressed', String(dark));
  $('theme').title = dark ? 'Change to light' : 'Change to dark';
}

function setUpTheme() {
  applyTheme(localStorage.getItem(THEME));
  $('theme').addEventListener('click', () => {
    const next = isDark(localStorage.getItem(THEME)) ? 'light' : 'dark';
    localStorage.setItem(THEME, next);
    applyTheme(next);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    applyTheme(localStorage.getItem(THEME));
  });
}

/** The token out of the address, which is cleaned at once, or the one of this tab. */
function takeToken() {
  const match = /^#token=([^&]+)/.exec(location.hash);
  if (match) {
    sessionStorage.setItem(TOKEN, match[1].replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))));
    history.replaceState(null, '', location.pathname + location.search);
  }
  return sessionStorage.getItem(TOKEN);
}

let session = null;

function askForToken(problem = '') {
  session?.stop();
  session = null;
  sessionStorage.removeItem(TOKEN);
  document.title = 'Obol';
  $('main').hidden = true;
  $('nav').hidden = true;
  $('leave').hidden = true;
  $('who').textContent = '';
  $('banner').hidden = true;
  setConnection('none');
  $('login').hidden = false;
  $('token-problem').textContent = problem;
  $('token').setAttribute('aria-invalid', problem ? 'true' : 'false');
  $('token').focus();
}

function setConnection(state, text = '') {
  $('connection').hidden = state === 'none';
  $('connection').className = `connection ${state}`;
  $('connection').textContent = text;
}

/** One visit with one token. */
class Session {
  constructor(token) {
    this.api = new Api(token, () => askForToken('This token is not accepted. The file may have been made anew.'));
    this.store = new Store(this.api);
    this.shared = shared;
    this.view = null;
    this.live = 'connecting';
  }

  async start() {
    $('login').hidden = true;
    setConnection('connecting', 'Connecting');
    this.unwatch = this.store.watch(name => this.onChange(name));
    this.clock = setInterval(() => this.tick(), 5000);
    this.onHash = () => this.route();
    window.addEventListener('hashchange', this.onHash);
    this.onShown = () => !document.hidden && this.store.want([...this.store.wanted]);
    document.addEventListener('visibilitychange', this.onShown);
    this.api.listen({ state: (...args) => this.onConnection(...args), event: (name, data) => this.onEvent(name, data) });
    await this.store.load('status');
    this.onStatus();
  }

  stop() {
    this.api.stop();
    this.store.stop();
    clearInterval(this.clock);
    clearInterval(this.countdown);
    window.removeEventListener('hashchange', this.onHash);
    document.removeEventListener('visibilitychange', this.onShown);
    fill($('main'));
    fill($('nav'));
  }

  onConnection(state, seconds, tries) {
    const before = this.live;
    this.live = state;
    clearInterval(this.countdown);
    if (state === 'live') {
      setConnection('live', 'Live');
      $('banner').hidden = true;
      if (before !== 'live') {
        this.store.want([...this.store.wanted]);
        if (this.wasLost) announce('Connected again.');
      }
      this.wasLost = false;
      return;
    }
    if (state === 'connecting') {
      if (!this.wasLost) setConnection('connecting', 'Connecting');
      return;
    }
    // A stream that ends is nothing yet: only if the next try fails as well, the reader is told.
    if (tries === 0) {
      setConnection('connecting', 'Connecting');
      return;
    }
    this.wasLost = true;
    setConnection('lost', 'Not connected');
    $('banner').hidden = false;
    let left = Math.ceil(seconds);
    this.asOf ??= new Date().toTimeString().slice(0, 8);
    const text = `Not connected: the program does not answer. What you see is as of ${this.asOf}.`;
    if ($('banner-text').textContent !== text) $('banner-text').textContent = text;
    const show = () => {
      $('banner-next').textContent = `Next try in ${Math.max(0, left)} s.`;
    };
    show();
    this.countdown = setInterval(() => {
      left -= 1;
      show();
    }, 1000);
  }

  onEvent(name, data) {
    this.asOf = null;
    this.store.event(name, data);
  }

  onStatus() {
    const s = this.store.get('status');
    if (!s || this.views) return;
    const relay = s.role === 'relay';
    this.views = relay ? operatorViews(this) : userViews(this);
    $('leave').hidden = false;
    $('nav').hidden = false;
    $('main').hidden = false;
    this.route();
  }

  route() {
    if (!this.views) return;
    if (/^#token=/.test(location.hash)) {
      begin();
      return;
    }
    const name = location.hash.replace(/^#\//, '');
    const view = this.views.find(v => v.name === name) ?? this.views[0];
    fill($('nav'), this.views.map(v => h('a', { href: `#/${v.name}`, 'aria-current': v === view ? 'page' : null }, v.title)));
    if (this.view?.name === view.name) return;
    const moved = this.view !== null;
    const places = view.cards();
    this.view = { name: view.name, cards: places.flat() };
    $('main').replaceChildren(h('h1', { class: 'visually-hidden', tabindex: '-1' }, view.title), h('div', { class: 'grid' }, places.map(c => (Array.isArray(c) ? h('div', { class: 'stack' }, c.map(x => x.root)) : c.root))));
    for (const card of this.view.cards) {
      card.update('all');
      card.start?.();
    }
    this.store.want(this.view.cards.flatMap(c => c.need));
    const current = $('nav').querySelector('[aria-current]');
    if (current) $('nav').scrollLeft = current.offsetLeft - 40;
    if (moved) {
      window.scrollTo(0, 0);
      $('main').querySelector('h1').focus({ preventScroll: true });
    }
    this.heading();
  }

  heading() {
    const s = this.store.get('status');
    if (!s) return;
    const name = s.nickname ?? (s.role === 'relay' ? 'relay' : 'client');
    $('who').textContent = s.role === 'relay' ? name : 'client';
    document.title = `${this.views?.find(v => v.name === this.view?.name)?.title ?? ''} · ${name} · Obol`;
  }

  onChange(name) {
    if (name === 'status') {
      this.onStatus();
      this.heading();
    }
    for (const card of this.view?.cards ?? []) {
      if (name === 'status' || name === 'payments' || name === 'warnings' || card.need.includes(name)) card.update(name);
    }
    // Without a first status there is no view: say why.
    const error = this.store.error('status');
    if (!this.views && name === 'status' && error) {
      $('main').hidden = false;
      fill($('main'), h('p', { class: 'problem', role: 'alert' }, error.message));
      setTimeout(() => !this.views && session === this && this.store.load('status'), 3000);
    }
  }

  tick() {
    if (document.hidden || !this.view) return;
    for (const card of this.view.cards) card.update('tick');
    if (this.live === 'live') this.store.refresh();
  }
}

function begin() {
  const token = takeToken();
  if (!token) {
    askForToken();
    return;
  }
  session?.stop();
  session = new Session(token);
  session.start();
}

setUpTheme();
$('login-form').addEventListener('submit', event => {
  event.preventDefault();
  const token = $('token').value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    $('token-problem').textContent = 'Paste the token: it is one word of letters and digits.';
    return;
  }
  $('token').value = '';
  sessionStorage.setItem(TOKEN, token);
  begin();
});
$('leave').addEventListener('click', () => askForToken());
$('retry').addEventListener('click', () => session?.api.retryNow?.());
window.addEventListener('hashchange', () => {
  if (!session && /^#token=/.test(location.hash)) begin();
});
begin();
