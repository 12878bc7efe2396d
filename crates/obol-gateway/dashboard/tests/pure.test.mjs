// The pure modules of the dashboard: node --test crates/obol-gateway/dashboard/tests/pure.test.mjs
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import test from 'node:test';

import * as f from '../format.js';
import * as json from '../json.js';
import { Pager, query, upsert } from '../paging.js';
import * as scale from '../scale.js';
import { EventParser, backOff } from '../sse.js';

const DIRECTORY = new URL('../', import.meta.url);
const BUNDLE = readdirSync(DIRECTORY).filter(name => /\.(js|css|html)$/.test(name)).map(name => [name, readFileSync(new URL(name, DIRECTORY), 'utf8')]);

test('the bundle is below 150 KiB, and asks for no file that is not there', () => {
  assert.ok(BUNDLE.length > 10);
  assert.ok(BUNDLE.reduce((all, [, text]) => all + Buffer.byteLength(text), 0) < 150 * 1024);
  const names = new Set(BUNDLE.map(([name]) => name));
  for (const [name, text] of BUNDLE) {
    for (const [, module, page] of text.matchAll(/from '\.\/([^']+)'|(?:src|href)="\/dashboard\/([^"]+)"/g)) assert.ok(names.has(module ?? page), `${name} wants ${module ?? page}`);
  }
});

test('nothing in the bundle parses HTML, evaluates text, sets style attributes or names another place', () => {
  for (const [name, text] of BUNDLE) {
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\(|new Function|import\(/, name);
    assert.doesNotMatch(text, /\sstyle=|'style'|<style|\son[a-z]+="|@import|url\((?!#)/, name);
    assert.deepEqual([...text.matchAll(/(?:https?:)?\/\/[a-z0-9.-]+\.[a-z]{2,}[^\s'"]*/gi)].map(m => m[0]).filter(u => !u.endsWith('//www.w3.org/2000/svg')), [], name);
  }
});

const I64 = '9223372036854775807';

test('json: integers beyond 2^53 are read and written exactly', () => {
  const text = `{"a":${I64},"b":[-${I64},9007199254740991],"c":"9223372036854775807","d":1.5e3,"e":"x\\"9223372036854775807"}`;
  const value = json.parse(text);
  assert.equal(value.a, BigInt(I64));
  assert.equal(value.b[0], -BigInt(I64));
  assert.equal(value.b[1], Number.MAX_SAFE_INTEGER);
  assert.equal(value.c, I64);
  assert.equal(value.d, 1500);
  assert.equal(value.e, `x"${I64}`);
  assert.deepEqual(json.parse(json.stringify(value)), value);
  assert.equal(json.stringify({ amount: BigInt(I64) }), `{"amount":${I64}}`);
  assert.equal(json.parse('12345678901234567890.5'), 12345678901234567890.5);
});

test('amounts are exact to the stroop, with seven decimals at most', () => {
  assert.equal(f.units(0), '0');
  assert.equal(f.units(1), '0.0000001');
  assert.equal(f.units(125_000_000), '12.5');
  assert.equal(f.units(-10_000_001), '−1.0000001');
  assert.equal(f.units(BigInt(I64)), '922,337,203,685.4775807');
  assert.equal(f.units(12_345_678_900_000n), '1,234,567.89');
  assert.equal(f.amount(null, 'OBOL'), '–');
  assert.equal(f.amount(5, 'OBOL'), '0.0000005\u00a0OBOL');
});

test('amounts are read back as they were written', () => {
  for (const n of [0n, 1n, 9_999_999n, 10_000_000n, 123_456_789_012n, BigInt(I64)]) {
    assert.equal(f.parseUnits(f.plainUnits(n)), n);
  }
  assert.equal(f.parseUnits(' .5 '), 5_000_000n);
  assert.equal(f.parseUnits('3.'), 30_000_000n);
  for (const bad of ['', '.', '-1', '1e3', '1,5', '0.00000001', 'x', '1 000', '922337203685.4775808']) {
    assert.throws(() => f.parseUnits(bad), RangeError, bad);
  }
  assert.throws(() => f.parseInteger('1.5'), RangeError);
  assert.equal(f.parseInteger(' 20 '), 20);
});

test('bytes are in binary units, three digits', () => {
  assert.equal(f.bytes(0), '0\u00a0B');
  assert.equal(f.bytes(1023), '1023\u00a0B');
  assert.equal(f.bytes(1024), '1.00\u00a0KiB');
  assert.equal(f.bytes(1_048_575), '1.00\u00a0MiB');
  assert.equal(f.bytes(15 * 2 ** 20), '15.0\u00a0MiB');
  assert.equal(f.bytes(700 * 2 ** 30), '700\u00a0GiB');
  assert.equal(f.bytes(2n ** 63n), '8.00\u00a0EiB');
  assert.equal(f.bytes(null), '–');
});

test('spans, relative times, shares and names', () => {
  assert.equal(f.span(0), '0\u202fs');
  assert.equal(f.span(59), '59\u202fs');
  assert.equal(f.span(3661), '1\u202fh 1\u202fmin');
  assert.equal(f.span(86_400 * 3 + 59), '3\u202fd');
  assert.equal(f.relative(100, 40), 'in 1\u202fmin');
  assert.equal(f.relative(40, 100), '1\u202fmin ago');
  assert.equal(f.relative(40, 40), 'now');
  assert.equal(f.utc(0), '1970-01-01 00:00:00 UTC');
  assert.equal(f.ratio(80, 100), 0.8);
  assert.equal(f.ratio(BigInt(I64), BigInt(I64)), 1);
  assert.equal(f.ratio(0, 0), 0);
  assert.equal(f.ratio(1, 0), 1);
  assert.equal(f.percent(0.0004), '< 0.1\u00a0%');
  assert.equal(f.percent(0.8), '80\u00a0%');
  assert.equal(f.short('GABCDEFGHIJKLMNOP'), 'GABCDE…MNOP');
  assert.equal(f.short('GABC'), 'GABC');
  assert.equal(f.short('GABCDEFGHIJKLMNOP', 8, 0), 'GABCDEFG…');
  assert.equal(f.perGib(20), 327_680n);
  assert.equal(f.sum([1, null, BigInt(I64)]), BigInt(I64) + 1n);
  assert.equal(f.count(1, 'escrow'), '1 escrow');
  assert.equal(f.count(2000, 'escrow'), '2,000 escrows');
});

test('events: every way to cut the stream gives the same events', () => {
  const text = ': hello\r\nid: 7\r\nevent: payment\r\ndata: {"a":1}\r\ndata:  two\r\n\r\ndata: x\n\nid\nevent: status\ndata\n\nevent: lost\n\n:\n\n'
    + 'id: 9\rdata: last\r\r\n';
  const whole = new EventParser().feed(text);
  assert.deepEqual(whole, [
    { name: 'payment', data: '{"a":1}\n two', id: '7' },
    { name: 'message', data: 'x', id: '7' },
    { name: 'status', data: '', id: '' },
    { name: 'message', data: 'last', id: '9' },
  ]);
  for (let cut = 0; cut <= text.length; cut += 1) {
    const parser = new EventParser();
    assert.deepEqual([...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))], whole, `cut at ${cut}`);
  }
  const parser = new EventParser();
  assert.deepEqual([...text].flatMap(c => parser.feed(c)), whole);
  assert.equal(parser.lastId, '9');
});

test('events: a byte order mark is no part of the first field, and what is unfinished is no event', () => {
  const parser = new EventParser();
  assert.deepEqual(parser.feed('\ufeffdata: a\n'), []);
  assert.deepEqual(parser.feed('\n'), [{ name: 'message', data: 'a', id: '' }]);
});

test('back-off grows to half a minute and is never at once', () => {
  assert.equal(backOff(0, 0), 1);
  assert.equal(backOff(3, 0), 8);
  assert.equal(backOff(99, 0), 30);
  for (let n = 0; n < 20; n += 1) assert.ok(backOff(n, 1) >= 0.75);
});

test('ticks cover the greatest value with round steps', () => {
  for (const max of [1e-7, 0.003, 1, 7, 99, 100, 101, 12_345, 9.2e18]) {
    for (const [make, bytes] of [[scale.ticks, false], [scale.byteTicks, true]]) {
      if (bytes && max < 1) continue;
      const t = make(max);
      assert.equal(t[0], 0);
      assert.ok(t.at(-1) >= max * (1 - 1e-9), `${max}: ${t}`);
      assert.ok(t.length >= 2 && t.length <= 9, `${max}: ${t}`);
      const step = t[1];
      t.forEach((v, i) => assert.ok(Math.abs(v - i * step) <= v * 1e-9));
    }
  }
  assert.deepEqual(scale.ticks(0), [0, 1]);
  assert.deepEqual(scale.byteTicks(3 * 2 ** 20), [0, 1, 2, 3].map(n => n * 2 ** 20));
  assert.deepEqual(scale.countTicks(3), [0, 1, 2, 3]);
  assert.ok(scale.countTicks(5).every(Number.isInteger));
});

test('ranges are whole bins, and the present one is the last', () => {
  for (const name of Object.keys(scale.RANGES)) {
    const { bin, bins } = scale.RANGES[name];
    for (const now of [1_700_000_000, 1_700_000_000 - (1_700_000_000 % bin)]) {
      const q = scale.rangeQuery(name, now);
      assert.equal(q.to - q.from, bin * bins);
      assert.equal(q.to % bin, 0);
      assert.ok(q.to > now && q.to - bin <= now);
    }
    assert.ok(bins <= 1000);
  }
});

test('time ticks fall on whole local units, and are not too many', () => {
  const from = 1_700_000_000;
  for (const spanOf of [3600, 86_400, 604_800, 31 * 86_400]) {
    const { at, step } = scale.timeTicks(from, from + spanOf, 8, 3600);
    assert.ok(at.length >= 2 && at.length <= 9, `${spanOf}: ${at.length}`);
    for (const t of at) {
      assert.equal((t + 3600) % step, 0);
      assert.ok(t >= from && t < from + spanOf);
    }
  }
});

test('bars stay inside their bin, steps end where the chart ends, stacks add up', () => {
  for (const width of [0.8, 3, 10, 40]) {
    const slots = scale.barSlots(100, 100 + width, 2);
    assert.equal(slots.length, 2);
    for (const [x, w] of slots) {
      assert.ok(x >= 100 && w > 0);
      assert.ok(x + w <= 100 + width + 0.5);
    }
  }
  assert.equal(scale.stepPath([[0, 5], [10, 7]], 20), 'M0 5H10V7H20');
  assert.equal(scale.stepPath([], 20), '');
  assert.deepEqual(scale.stack([1, 2, 3]), [[0, 1], [1, 3], [3, 6]]);
  assert.equal(scale.linear(0, 10, 100, 0)(5), 50);
  assert.equal(scale.linear(3, 3, 1, 2)(3), 1);
});

test('queries leave out what is not asked', () => {
  assert.equal(query({ limit: 50, cursor: null, state: '' }), '?limit=50');
  assert.equal(query({ cursor: 'a b&c' }), '?cursor=a%20b%26c');
  assert.equal(query({}), '');
});

test('pages go forward and back, and a failed step stays where it was', async () => {
  const all = Array.from({ length: 7 }, (_, n) => n);
  let fail = false;
  const pager = new Pager(async ({ limit, cursor }) => {
    if (fail) throw new Error('no');
    const from = Number(cursor ?? 0);
    return { records: all.slice(from, from + limit), next: from + limit < all.length ? String(from + limit) : null };
  }, 3);
  assert.deepEqual(await pager.load(), [0, 1, 2]);
  assert.ok(pager.hasNext && !pager.hasPrevious);
  assert.deepEqual(await pager.forward(), [3, 4, 5]);
  fail = true;
  await assert.rejects(pager.forward());
  assert.equal(pager.page, 2);
  await assert.rejects(pager.back());
  assert.equal(pager.page, 2);
  fail = false;
  assert.deepEqual(await pager.forward(), [6]);
  assert.ok(!pager.hasNext);
  assert.deepEqual(await pager.forward(), [6]);
  assert.deepEqual(await pager.back(), [3, 4, 5]);
  assert.deepEqual(await pager.back(), [0, 1, 2]);
  assert.deepEqual(await pager.back(), [0, 1, 2]);
});

test('a record that changed keeps its place, a new one goes to the front', () => {
  const list = [{ id: 2 }, { id: 1 }];
  assert.deepEqual(upsert(list, { id: 1, x: 1 }, 'id'), [{ id: 2 }, { id: 1, x: 1 }]);
  assert.deepEqual(upsert(list, { id: 3 }, 'id', 2), [{ id: 3 }, { id: 2 }]);
});
