// The dashboard in headless Chromium, as a running relay or client serves it. Run once for each:
//
//   OBOL_DASHBOARD_URL=http://127.0.0.1:9035 OBOL_DASHBOARD_TOKEN=... [OBOL_DASHBOARD_SHOTS=directory] [OBOL_DASHBOARD_ROLE=relay|client] \
//     node --test crates/obol-gateway/dashboard/tests/browser.test.mjs
//
// With SHOTS, every view is photographed at 1280 and 360 pixels, light and dark. With ROLE, the program must have that role.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before } from 'node:test';

import * as f from '../format.js';
import { parse, stringify } from '../json.js';
import { Browser } from './chromium.mjs';

const { OBOL_DASHBOARD_URL: URL_GIVEN, OBOL_DASHBOARD_TOKEN: TOKEN, OBOL_DASHBOARD_SHOTS: SHOTS, OBOL_DASHBOARD_ROLE: ROLE } = process.env;
if (!URL_GIVEN || !TOKEN) throw new Error('OBOL_DASHBOARD_URL and OBOL_DASHBOARD_TOKEN say which dashboard is tested');
const BASE = new URL(URL_GIVEN).origin;
if (SHOTS) mkdirSync(SHOTS, { recursive: true });

const VIEWS = {
  relay: { overview: ['Status', 'Now', 'History', 'Exposure against limits', 'Balances', 'Network and ledger', 'Tariff'], neighbours: ['Neighbour relays'], circuits: ['Circuits'],
    escrows: ['Time line', 'Escrows'], payments: ['Payments', 'Payment requests'], money: ['Balances', 'Accounts', 'Payment requests to others', 'Transfers'] },
  client: { overview: ['State', 'Balance', 'Spent against budget', 'History', 'Live circuits'], tunnels: ['Tunnels', 'Guards'], spending: ['Spending log', 'Payment requests'],
    limits: ['Spent against budget', 'Budgets', 'Price ceilings'], escrows: ['Time line', 'Escrows'], money: ['Add funds', 'Balances', 'Payment requests to others', 'Transfers', 'Accounts'] },
};
const CHARTS = { relay: ['Carried', 'Earned and settled', 'Owed to us, not settled', 'Passed on to other relays', 'Payment requests and payments'], client: ['Payment requests and payments', 'Carried', 'Spent'] };

/** Without payments there is no money to show. */
const PLAIN = { relay: { overview: ['Status', 'History', 'Payments', 'Network and ledger'], circuits: ['Circuits'] }, client: { overview: ['State', 'History', 'Live circuits'], tunnels: ['Tunnels'] } };

let browser;
let role;
let money;

async function api(path, options = {}) {
  const response = await fetch(`${BASE}/api/v1/${path}`, { ...options, headers: { Authorization: `Bearer ${TOKEN}`, 'Content-Type': 'application/json' } });
  const text = await response.text();
  assert.ok(response.ok, `${path}: ${response.status} ${text}`);
  return parse(text);
}

/** A page that has been let in, at a view, when everything that it asks for has come. */
async function open(view = 'overview', options = {}) {
  const page = await browser.page(options);
  await page.goto(`${BASE}/#token=${TOKEN}`);
  await page.until(() => document.querySelector('nav a'));
  await show(page, view);
  return page;
}

async function show(page, view) {
  await page.run(v => {
    location.hash = `#/${v}`;
  }, view);
  await page.until(v => document.querySelector('nav a[aria-current]')?.getAttribute('href') === `#/${v}`
    && document.querySelector('.card') && !document.querySelector('main').innerText.includes('Asking…')
    && [...document.querySelectorAll('.chart-area')].every(a => a.childElementCount > 0 || !a.checkVisibility()), view);
}

/** What must hold for every page: nothing was thrown, logged, blocked, or asked of anybody else. */
async function clean(page) {
  assert.deepEqual(page.errors, []);
  assert.deepEqual(await page.run(() => window.violations), []);
  const elsewhere = page.requests.filter(u => !u.startsWith('data:') && new URL(u).origin !== BASE && u !== 'about:blank');
  assert.deepEqual(elsewhere, []);
  assert.ok(page.requests.every(u => !u.includes(TOKEN) || u === `${BASE}/#token=${TOKEN}`), 'the token is in no request but its own fragment');
}

before(async () => {
  browser = await Browser.start();
  console.log(browser.version);
  const status = await api('status');
  role = status.role;
  money = status.asset !== null;
  if (ROLE) assert.equal(role, ROLE);
});

after(() => browser?.stop());

test('the page comes with its content security policy, and from this origin alone', async () => {
  const response = await fetch(`${BASE}/`);
  const policy = response.headers.get('content-security-policy');
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"]) assert.ok(policy.includes(part), part);
  assert.ok(!policy.includes('unsafe'));
  const html = await response.text();
  assert.ok(!/https?:\/\/(?!www\.w3\.org)/.test(html));
  assert.ok(!html.includes(TOKEN));
});

test('without a token nothing is shown, and a wrong one is refused in words', async () => {
  const page = await browser.page();
  await page.goto(`${BASE}/`);
  await page.until(() => !document.querySelector('#login').hidden);
  assert.ok((await page.run(() => document.body.innerText)).includes('gateway.token'), 'says where the token is');
  await clean(page);
  await page.run(() => document.querySelector('#token').focus());
  await page.type('not-the-token');
  await page.key('Enter');
  await page.until(() => document.querySelector('#token-problem').textContent.includes('not accepted'));
  assert.equal(await page.run(() => sessionStorage.length), 0);
  assert.ok(await page.run(() => document.querySelector('#main').hidden));
  // Chromium itself logs the refused request; nothing else may be there.
  page.errors = page.errors.filter(e => !/401/.test(e));
  await clean(page);
  await page.type(TOKEN);
  await page.key('Enter');
  await page.until(() => document.querySelector('nav a'));
  if (SHOTS) {
    await page.run(() => document.querySelector('#leave').click());
    await page.until(() => !document.querySelector('#login').hidden);
    for (const dark of [false, true]) {
      await page.look({ width: 360, height: 740, dark });
      await page.shot(join(SHOTS, `${role}-login-360-${dark ? 'dark' : 'light'}.png`));
    }
  }
  await page.close();
});

test('the token in the fragment is taken and leaves the address', async () => {
  const page = await open();
  assert.ok(!(await page.run(() => location.href)).includes(TOKEN));
  assert.equal(await page.run(() => sessionStorage.getItem('obol-token')), TOKEN);
  assert.equal(await page.run(() => localStorage.length), 0);
  await page.reload();
  await page.until(() => document.querySelector('nav a'));
  await page.run(() => document.querySelector('#leave').click());
  await page.until(() => !document.querySelector('#login').hidden);
  assert.equal(await page.run(() => sessionStorage.length), 0);
  assert.equal(await page.run(() => document.querySelector('#main').textContent), '');
  await clean(page);
  await page.close();
});

for (const [width, dark] of [[1280, false], [1280, true], [360, false], [360, true]]) {
  test(`every view at ${width} pixels, ${dark ? 'dark' : 'light'}: complete, readable, no wider than the screen`, async () => {
    const page = await open('overview', { width, height: width < 600 ? 740 : 800, dark });
    for (const [view, cards] of Object.entries((money ? VIEWS : PLAIN)[role])) {
      await show(page, view);
      const shown = await page.run(() => [...document.querySelectorAll('.card:not([hidden]) h2')].map(x => x.textContent));
      for (const name of cards) assert.ok(shown.includes(name), `${view}: no card "${name}" in ${shown}`);
      assert.deepEqual(await page.run(() => [...document.querySelectorAll('main .problem')].filter(e => e.textContent).map(e => e.textContent)), [], view);
      const wide = await page.run(() => {
        const w = document.documentElement.clientWidth;
        return document.documentElement.scrollWidth <= w ? [] : [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > w + 0.5)
          .slice(0, 8).map(e => `${e.tagName}.${e.className.baseVal ?? e.className}`);
      });
      assert.deepEqual(wide, [], `${view} is wider than ${width}`);
      assert.deepEqual(await page.run(unnamed), [], `${view}: without a name`);
      assert.deepEqual(await page.run(faint), [], `${view}: contrast below 4.5`);
      if (SHOTS) await page.shot(join(SHOTS, `${role}-${view}-${width}-${dark ? 'dark' : 'light'}.png`));
    }
    await clean(page);
    await page.close();
  });
}

/** Controls, pictures and regions that have no name. Runs in the page. */
function unnamed() {
  const name = e => e.getAttribute('aria-label') || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent || e.getAttribute('alt')
    || [...(e.labels ?? [])].map(l => l.textContent).join('') || (['BUTTON', 'A', 'SUMMARY'].includes(e.tagName) ? e.textContent.trim() : '');
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  return [...[...document.querySelectorAll('button, a, input, select, img, [role=img], [role=meter], section, nav, dialog')].filter(e => e.checkVisibility() && !name(e)).map(e => e.outerHTML.slice(0, 120)),
    ...ids.filter((id, i) => ids.indexOf(id) !== i).map(id => `twice: ${id}`)];
}

/** Text whose contrast is below 4.5 : 1 (WCAG 2, AA). Runs in the page. */
function faint() {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const c of colours) {
      canvas.fillStyle = c;
      canvas.fillRect(0, 0, 1, 1);
    }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = rgb => {
    const [r, g, b] = [...rgb].slice(0, 3).map(v => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const out = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest('.visually-hidden, noscript, :disabled, option')) continue;
    const behind = [];
    for (let p = e; p; p = p.parentElement) behind.unshift(getComputedStyle(p).backgroundColor);
    const style = getComputedStyle(e);
    const ground = over(behind);
    const ink = e.ownerSVGElement ? style.fill : style.color;
    const [a, b] = [light(over([...behind, ink])), light(ground)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) out.add(`${contrast.toFixed(2)} ${e.tagName}.${e.className.baseVal ?? e.className}: ${walker.currentNode.data.slice(0, 30)}`);
  }
  return [...out].slice(0, 10);
}

test('what is on the page is what the API says', async () => {
  const page = await open();
  const status = await api('status');
  const text = () => page.run(() => document.body.innerText.replace(/\u00a0|\u202f/g, ' '));
  const has = async (what, where) => assert.ok((await text()).includes(what.replace(/\u00a0|\u202f/g, ' ')), `${where}: "${what}" is not in\n${await text()}`);
  await page.until(s => document.body.innerText.includes(s), (await api('status')).explanation);
  const balances = await api('balances');
  if (!money) {
    await clean(page);
    await page.close();
    return;
  }
  if (role === 'relay') {
    if (status.nickname) await has(status.nickname, 'nickname');
    if (status.asset) {
      const tariff = await api('tariff');
      await has(`${f.integer(tariff.price_per_64_kib)} stroops`, 'price');
    }
    for (const a of status.tor.authorities) await has(a.name, 'authorities');
    const limits = await api('limits');
    assert.equal(await page.run(() => document.querySelectorAll('svg[role=meter]').length), limits.records.length);
    await show(page, 'neighbours');
    for (const p of (await api('peers')).records) await has(p.nickname ?? f.short(p.peer), 'neighbours');
    await show(page, 'circuits');
    await page.until(n => document.querySelectorAll('.data tbody tr').length >= Math.min(n, 1), (await api('circuits')).records.length);
  } else {
    await has(balances.asset === null ? 'not read from the ledger yet' : f.amount(balances.asset, status.asset?.code), 'free balance');
    await show(page, 'limits');
    const ceilings = await api('ceilings');
    const fields = await page.run(() => [...document.querySelectorAll('form input, form select')].map(i => i.value));
    assert.ok(fields.includes(String(ceilings.price_per_64_kib)) && fields.includes(ceilings.pay) && fields.includes(ceilings.paths), fields.join());
    await show(page, 'tunnels');
    const { records } = await api('tunnels');
    for (const t of records.slice(0, 3)) {
      for (const hop of t.hops) await has(hop.nickname ?? f.short(hop.fingerprint, 8, 0), 'hops');
      for (const hop of t.hops.filter(x => !x.unpaid && x.price_per_64_kib !== null)) await has(`${f.integer(hop.price_per_64_kib)} / 64 KiB`, 'price of a hop');
    }
    // A guard is the same one in its list and in history.
    const guards = (await api('peers')).records;
    assert.ok(guards.some(g => g.signed > 0), 'nothing was signed to any guard');
    for (const g of guards) {
      await has(g.nickname ?? f.short(g.peer), 'guards');
      const { bins } = await api(`history?peer=${g.peer}`);
      assert.equal(bins.reduce((all, bin) => all + bin.signed, 0) > 0, g.signed > 0, `signed to ${g.peer} in its history`);
    }
  }
  await show(page, 'escrows');
  const { records } = await api(`escrows?limit=200&order=asc&from=${Math.floor(status.now / 3600) * 3600 - 6 * 3600}`);
  const live = records.filter(e => !['settled', 'ended', 'refunded', 'abandoned'].includes(e.state));
  if (live.length > 0) await has(f.short(live[0].escrow), 'escrows');
  else await has('No escrow is open.', 'escrows');
  const newest = (await api('escrows?limit=50&order=desc')).records;
  await page.run(() => {
    const select = document.querySelector('select[aria-label="State"]');
    select.value = 'all';
    select.dispatchEvent(new Event('change'));
  });
  if (newest.length > 0) await page.until((n, e) => document.querySelectorAll('.data tbody tr').length === n && document.querySelector('.data tbody tr').innerText.includes(e), newest.length, f.short(newest[0].escrow));
  else await page.until(() => document.body.innerText.includes('No escrow is in this selection'));
  await show(page, role === 'relay' ? 'payments' : 'spending');
  const payments = await api('payments?limit=50');
  if (payments.records.length > 0) await page.until(n => document.querySelectorAll('.data tbody tr').length >= n, payments.records.length);
  else await has(role === 'relay' ? 'Nobody has paid yet' : 'Nothing was spent yet', 'payments');
  await clean(page);
  await page.close();
});

test('charts are there, have a table, and are read by the keyboard', async () => {
  const page = await open();
  const now = Math.floor(Date.now() / 1000);
  const owed = (await api(`history?bin=3600&from=${now - 3600}&to=${now}`)).bins.some(b => (b.owed ?? null) !== null);
  const wanted = money ? CHARTS[role].filter(name => owed || !name.startsWith('Owed')) : ['Carried'];
  assert.deepEqual(await page.run(() => [...document.querySelectorAll('.charts > :not([hidden]) h3')].map(x => x.textContent)), wanted);
  for (const range of ['Hour', 'Week', 'Month', 'Day']) {
    await page.run(r => [...document.querySelectorAll('.choice button')].find(b => b.textContent === r).click(), range);
    const bins = { Hour: 60, Week: 168, Month: 31, Day: 24 }[range];
    await page.run(() => {
      for (const d of document.querySelectorAll('.as-table')) d.open = true;
    });
    await page.until(n => [...document.querySelectorAll('.as-table')].every(d => !d.checkVisibility() || d.querySelectorAll('tbody tr').length === n), bins);
  }
  const said = await page.run(async () => {
    const svg = document.querySelector('.chart svg');
    svg.focus();
    return document.activeElement === svg;
  });
  assert.ok(said, 'a chart takes the focus');
  await page.key('ArrowLeft');
  const first = await page.until(() => !document.querySelector('.tip').hidden && document.querySelector('.chart [aria-live]').textContent);
  assert.match(first, /paid|payment/);
  assert.doesNotMatch(first, /c-|undefined|NaN/);
  await page.key('ArrowLeft');
  await page.until(before => document.querySelector('.chart [aria-live]').textContent !== before, first);
  await page.key('Escape');
  await page.until(() => document.querySelector('.tip').hidden);
  await clean(page);
  await page.close();
});

test('the theme follows the system until the switch says otherwise, and the switch is remembered', async () => {
  const page = await open('overview', { dark: true });
  const ground = () => page.run(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.look({ dark: false });
  const light = await ground();
  assert.notEqual(dark, light);
  await page.run(() => document.querySelector('#theme').click());
  assert.equal(await ground(), dark);
  await page.reload();
  await page.until(() => document.querySelector('nav a'));
  assert.equal(await ground(), dark);
  await clean(page);
  await page.close();
});

test('live events change the page, and a stream that ended goes on where it was', async () => {
  const page = await browser.page();
  const status = await api('status');
  const asked = [];
  await page.send('Fetch.enable', { patterns: [{ urlPattern: '*/api/v1/events' }] });
  const before = page.event.bind(page);
  page.event = (method, params) => {
    before(method, params);
    if (method !== 'Fetch.requestPaused') return;
    asked.push(params.request.headers['Last-Event-ID'] ?? params.request.headers['last-event-id'] ?? null);
    const n = asked.length;
    const events = [`: hello\n\nid: ${n * 7}\nevent: status\ndata: ${stringify({ ...status, now: Math.floor(Date.now() / 1000), explanation: `Sentence <i>number</i> ${n}.` })}\n\n`,
      `event: warning\ndata: {"text":"A warning <i>number</i> ${n}."}\n\n`];
    page.send('Fetch.fulfillRequest', { requestId: params.requestId, responseCode: 200, responseHeaders: [{ name: 'Content-Type', value: 'text/event-stream' }],
      body: Buffer.from(events.join('')).toString('base64') });
  };
  await page.goto(`${BASE}/#token=${TOKEN}`);
  await page.until(() => document.querySelector('.explanation')?.textContent === 'Sentence <i>number</i> 2.'
    && document.querySelector('.warnings')?.innerText.includes('A warning <i>number</i> 1.'));
  assert.deepEqual(asked.slice(0, 2), [null, '7']);
  assert.equal(await page.run(() => document.querySelectorAll('main i').length), 0, 'data is never read as HTML');
  await clean(page);
  await page.close();
});

test('without the live stream the page says so, and comes back by itself', async () => {
  const page = await open();
  await page.until(() => document.querySelector('#connection').textContent === 'Live');
  await page.send('Network.setBlockedURLs', { urls: ['*/api/v1/events'] });
  await page.reload();
  await page.until(() => document.querySelector('#connection')?.textContent === 'Not connected' && !document.querySelector('#banner').hidden);
  if (SHOTS) await page.shot(join(SHOTS, `${role}-not-connected.png`));
  await page.send('Network.setBlockedURLs', { urls: [] });
  await page.run(() => document.querySelector('#retry').click());
  await page.until(() => document.querySelector('#connection').textContent === 'Live' && document.querySelector('#banner').hidden);
  page.errors = page.errors.filter(e => !/ERR_BLOCKED_BY_CLIENT/.test(e));
  await clean(page);
  await page.close();
});

test('an answer that is an error is shown in words, and nothing else breaks', async () => {
  const path = money ? 'balances' : 'history';
  const page = await browser.page();
  await page.send('Fetch.enable', { patterns: [{ urlPattern: `*/api/v1/${path}*` }] });
  const before = page.event.bind(page);
  page.event = (method, params) => {
    before(method, params);
    if (method === 'Fetch.requestPaused') {
      page.send('Fetch.fulfillRequest', { requestId: params.requestId, responseCode: 503, responseHeaders: [{ name: 'Content-Type', value: 'application/problem+json' }],
        body: Buffer.from('{"type":"about:blank","title":"The journal is busy","status":503,"detail":"Try <b>again</b> later."}').toString('base64') });
    }
  };
  await page.goto(`${BASE}/#token=${TOKEN}`);
  await page.until(() => [...document.querySelectorAll('.problem')].some(p => p.textContent === 'The journal is busy: Try <b>again</b> later.'));
  assert.equal(await page.run(() => document.querySelectorAll('.problem b').length), 0, 'data is never read as HTML');
  await page.until(s => document.body.innerText.includes(s), (await api('status')).explanation);
  page.errors = page.errors.filter(e => !/503/.test(e));
  await clean(page);
  await page.close();
});

test('money: a payment request comes with a QR code; a wrong amount is told at its field', async t => {
  if (!money) return t.skip('there are no payments');
  const page = await open('money');
  const form = '[aria-label="New payment request"]';
  await page.run(s => document.querySelector(`${s} input`).focus(), form);
  await page.type('1,5');
  await page.key('Enter');
  await page.until(s => document.querySelector(`${s} .field-error`).textContent.includes('12.5') && document.querySelector(`${s} input`).getAttribute('aria-invalid') === 'true', form);
  const before = (await api('invoices?limit=200')).records.length;
  await page.run(s => {
    document.querySelector(`${s} input`).value = '';
    document.querySelector(`${s} input`).focus();
  }, form);
  await page.type('1.5000001');
  await page.key('Enter');
  await page.until(() => [...document.querySelectorAll('img.qr')].some(i => i.complete && i.naturalWidth > 0));
  const after = (await api('invoices?limit=200')).records;
  assert.equal(after.length, Math.min(200, before + 1));
  assert.equal(after[0].amount, 15_000_001);
  await page.until(m => document.querySelector('.invoice').innerText.includes(m) && document.querySelector('.invoice').innerText.includes('1.5000001'), after[0].memo);
  assert.deepEqual(await page.run(faint), []);
  if (SHOTS) {
    await page.shot(join(SHOTS, `${role}-invoice-1280.png`));
    await page.look({ width: 360, height: 740, dark: true });
    await page.shot(join(SHOTS, `${role}-invoice-360-dark.png`));
  }
  await clean(page);
  await page.close();
});

test('a relay asks before it flushes; a client changes its budgets', async t => {
  if (!money) return t.skip('there are no payments');
  if (role === 'relay') {
    const page = await open('escrows');
    const button = '[...document.querySelectorAll("button")].find(b => b.textContent === "Flush now…")';
    await page.run(`() => ${button}.click()`);
    await page.until(() => document.querySelector('dialog')?.open);
    if (SHOTS) await page.shot(join(SHOTS, 'relay-flush.png'));
    await page.key('Escape');
    await page.until(() => !document.querySelector('dialog'));
    assert.ok(!page.requests.some(u => u.endsWith('/api/v1/flush')), 'nothing is flushed without a yes');
    await clean(page);
    await page.close();
    return;
  }
  const page = await open('limits');
  const before = await api('budgets');
  const budgets = { circuit: before.circuit, day: before.day, month: before.month, total: before.total };
  const set = async text => {
    await page.run(() => {
      const day = [...document.querySelectorAll('label')].find(l => l.textContent === 'A day');
      const input = document.getElementById(day.htmlFor);
      input.value = '';
      input.focus();
    });
    await page.type(text);
    await page.key('Enter');
  };
  try {
    await set('123.4567891');
    await page.until(() => [...document.querySelectorAll('.said')].some(s => s.textContent.startsWith('Saved')));
    assert.deepEqual({ ...budgets, day: 1_234_567_891 }, (({ circuit, day, month, total }) => ({ circuit, day, month, total }))(await api('budgets')));
    await page.until(() => document.body.innerText.includes('123.4567891'));
    await set('a lot');
    await page.until(() => [...document.querySelectorAll('.field-error')].some(s => s.textContent.includes('12.5')));
  } finally {
    await api('budgets', { method: 'PUT', body: JSON.stringify(budgets) });
  }
  await clean(page);
  await page.close();
});
