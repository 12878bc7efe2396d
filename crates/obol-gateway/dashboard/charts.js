// Charts as SVG, drawn at the size they have: bars, steps, a time line. Each has values on hover and by the arrow keys, and a table.
import { fill, h, setVars } from './dom.js';
import { clock, day, localTime } from './format.js';
import { barSlots, byteTicks, countTicks, linear, round, stack, stepPath, ticks, timeTicks } from './scale.js';

const TICKS = { bytes: byteTicks, count: countTicks, amount: ticks };
let serial = 0;

/** What all charts share: a figure with heading, legend, drawing area, read-out line, and a table for those who do not see it. */
class Chart {
  constructor({ title, height }) {
    this.id = `chart-${serial += 1}`;
    this.height = height;
    this.title = title;
    this.index = null;
    this.legend = h('ul', { class: 'legend' });
    this.area = h('div', { class: 'chart-area' });
    this.tip = h('div', { class: 'tip', hidden: true });
    this.live = h('p', { class: 'visually-hidden', 'aria-live': 'polite' });
    this.table = h('details', { class: 'as-table' }, h('summary', {}, 'As a table'));
    this.tableBody = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `${title}: table` });
    this.table.append(this.tableBody);
    this.table.addEventListener('toggle', () => this.fillTable());
    this.plot = h('div', { class: 'plot' }, this.area, this.tip);
    this.root = h('figure', { class: 'chart', id: this.id }, this.legend, this.plot, this.live, this.table);
    this.plot.addEventListener('pointermove', e => this.hover(e));
    this.plot.addEventListener('pointerdown', e => this.hover(e));
    this.plot.addEventListener('pointerleave', () => this.select(null));
    this.plot.addEventListener('keydown', e => this.onKey(e));
    this.plot.addEventListener('focusout', () => this.select(null));
    this.sizes = new ResizeObserver(() => {
      const width = Math.floor(this.area.clientWidth);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.sizes.observe(this.area);
  }

  onKey(event) {
    const n = this.length();
    if (n === 0) return;
    const at = this.index;
    const to = { ArrowRight: at === null ? n - 1 : at + 1, ArrowLeft: at === null ? n - 1 : at - 1,
      ArrowDown: at === null ? 0 : at + 1, ArrowUp: at === null ? 0 : at - 1, Home: 0, End: n - 1 }[event.key];
    if (event.key === 'Escape') this.select(null);
    if (to === undefined) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(n - 1, to)), true);
  }

  select(index, spoken = false) {
    if (index === this.index) return;
    this.index = index;
    this.mark();
    this.live.textContent = spoken && index !== null ? this.describe(index).map(([name, value]) => [name, value].filter(Boolean).join(' ')).join(', ') : '';
  }

  /** Beside what it tells of, from x0 to x1; above y where there is no room beside. */
  showTip(x0, x1, y, lines) {
    this.tip.hidden = false;
    fill(this.tip, lines.map(([name, value, series], i) => h('div', { class: i === 0 ? 'tip-head' : 'tip-line' },
      series ? h('span', { class: `swatch ${series}` }) : null, h('span', {}, name), value === undefined ? null : h('b', {}, value))));
    const width = this.tip.offsetWidth;
    const left = x1 + 8 + width <= this.width ? x1 + 8 : x0 - 8 - width >= 0 ? x0 - 8 - width : Math.max(0, Math.min(this.width - width, (x0 + x1 - width) / 2));
    setVars(this.tip, { left: `${left}px`, top: `${Math.max(0, y - this.tip.offsetHeight - 8)}px` });
  }

  fillTable() {
    if (!this.table.open) return;
    const { head, rows } = this.asTable();
    fill(this.tableBody, h('table', {}, h('caption', { class: 'visually-hidden' }, this.title),
      h('thead', {}, h('tr', {}, head.map((name, i) => h('th', { scope: 'col', class: i ? 'num' : null }, name)))),
      h('tbody', {}, rows.map(row => h('tr', {}, row.map((cell, i) => h(i ? 'td' : 'th', i ? { class: 'num' } : { scope: 'row' }, cell)))))));
  }

  svg(summary, height, ...children) {
    return h('svg', { width: this.width, height, viewBox: `0 0 ${this.width} ${height}`, role: 'img', tabindex: '0',
      'aria-label': summary, focusable: 'true' }, ...children);
  }
}

/**
 * Bins over time. `series`: {name, className, kind: 'bar' | 'stack' | 'step', value: bin => number, text: bin => string}.
 * Bars stand side by side, all stacked ones on each other, steps are lines on top.
 */
export class BinChart extends Chart {
  constructor({ title, unit, series, height = 190, axisText, empty, needs = null }) {
    super({ title, height });
    Object.assign(this, { unit, series, axisText, empty, needs, bins: [], bin: 3600, now: 0 });
  }

  length() {
    return this.bins.length;
  }

  update(bins, bin, now) {
    Object.assign(this, { bins, bin, now });
    if (this.index !== null && this.index >= bins.length) this.index = null;
    this.draw();
    this.fillTable();
  }

  draw() {
    if (!this.width) return;
    const { series } = this;
    fill(this.legend, series.map(s => h('li', {}, h('span', { class: `swatch ${s.className} ${s.kind === 'step' ? 'as-line' : ''}` }), s.name)));
    const stacked = series.filter(s => s.kind === 'stack');
    const bars = series.filter(s => s.kind === 'bar');
    const steps = series.filter(s => s.kind === 'step');
    const tops = this.bins.map(b => Math.max(stacked.reduce((all, s) => all + s.value(b), 0), ...bars.map(s => s.value(b)), ...steps.map(s => s.value(b))));
    const max = Math.max(0, ...tops);
    const nothing = max <= 0;
    const marks = nothing ? [0] : TICKS[this.unit](max, 4);
    const labels = marks.map(m => this.axisText(m));
    const height = nothing ? 84 : this.height;
    const left = Math.max(26, ...labels.map(l => l.length * 6.3 + 10));
    const [top, bottom, right] = [10, height - 22, this.width - 1];
    const from = this.bins[0]?.start ?? 0;
    const to = from + this.bins.length * this.bin;
    const x = linear(from, to, left, right);
    const y = linear(0, marks.at(-1) || 1, bottom, top);
    const parts = [];
    for (const [i, m] of marks.entries()) {
      const at = Math.round(y(m)) + 0.5;
      parts.push(h('line', { class: i === 0 ? 'axis' : 'grid', x1: left, x2: right, y1: at, y2: at }),
        h('text', { class: 'tick', x: left - 6, y: at + 3.5, 'text-anchor': 'end' }, labels[i]));
    }
    const offset = -new Date(from * 1000).getTimezoneOffset() * 60;
    const { at: when, step } = timeTicks(from, to, Math.max(2, Math.floor((right - left) / 64)), offset);
    for (const t of when) {
      const at = Math.round(x(t)) + 0.5;
      if (at > right - 18) continue;
      parts.push(h('line', { class: 'axis', x1: at, x2: at, y1: bottom, y2: bottom + 4 }),
        h('text', { class: 'tick', x: at, y: bottom + 16, 'text-anchor': at - left < 18 ? 'start' : 'middle' },
          step >= 86400 || (t + offset) % 86400 === 0 ? day(t) : clock(t)));
    }
    this.columns = this.bins.map(b => [x(b.start), x(b.start + this.bin)]);
    const groups = Math.max(1, bars.length + (stacked.length ? 1 : 0));
    const paths = new Map(series.map(s => [s, '']));
    const rect = (s, slot, y1, y2) => {
      if (y1 - y2 < 0.01) return;
      const tall = Math.max(1, y1 - y2);
      paths.set(s, `${paths.get(s)}M${round(slot[0])} ${round(y1)}v${round(-tall)}h${round(slot[1])}v${round(tall)}z`);
    };
    if (!nothing) {
      this.bins.forEach((b, i) => {
        const slots = barSlots(...this.columns[i], groups);
        stack(stacked.map(s => s.value(b))).forEach(([lo, hi], n) => rect(stacked[n], slots[0], y(lo), y(hi)));
        bars.forEach((s, n) => rect(s, slots[n + (stacked.length ? 1 : 0)], y(0), y(s.value(b))));
      });
      for (const s of [...stacked, ...bars]) parts.push(h('path', { class: `bar ${s.className}`, d: paths.get(s) }));
      for (const s of steps) {
        const points = this.bins.map((b, i) => [this.columns[i][0], y(s.value(b))]);
        parts.push(h('path', { class: `step ${s.className}`, d: stepPath(points, this.columns.at(-1)[1]) }));
      }
    } else {
      parts.push(h('text', { class: 'nothing', x: (left + right) / 2, y: (top + bottom) / 2, 'text-anchor': 'middle' }, this.empty));
    }
    this.frame = { top, bottom };
    const cursor = h('rect', { class: 'cursor', y: top, height: bottom - top, x: 0, width: 0 });
    const total = series.filter(s => s.total).map(s => `${s.name} ${s.total(this.bins)}`).join(', ');
    const summary = nothing ? `${this.title}: ${this.empty}` : `${this.title}, ${localTime(from)} to ${localTime(to)}. ${total}. Arrow keys read the values.`;
    fill(this.area, this.svg(summary, height, cursor, ...parts));
    this.mark();
  }

  hover(event) {
    if (this.bins.length === 0 || !this.columns) return;
    const at = event.clientX - this.area.getBoundingClientRect().left;
    const i = this.columns.findIndex(([, x1]) => at < x1);
    this.select(at < this.columns[0][0] ? null : i < 0 ? this.bins.length - 1 : i);
  }

  describe(i) {
    const b = this.bins[i];
    const until = b.start + this.bin;
    const head = this.bin >= 86400 ? localTime(b.start).slice(0, 10) : `${localTime(b.start)} – ${clock(until)}`;
    return [[head], ...this.series.map(s => [s.name, s.text(b), `${s.className} ${s.kind === 'step' ? 'as-line' : ''}`])];
  }

  mark() {
    const cursor = this.area.querySelector('.cursor');
    if (!cursor) return;
    if (this.index === null || !this.bins[this.index]) {
      cursor.setAttribute('width', 0);
      this.tip.hidden = true;
      return;
    }
    const [x0, x1] = this.columns[this.index];
    cursor.setAttribute('x', round(x0));
    cursor.setAttribute('width', round(Math.max(1, x1 - x0)));
    this.showTip(x0, x1, 0, this.describe(this.index));
  }

  asTable() {
    const { series } = this;
    return { head: ['From', ...series.map(s => s.name)], rows: this.bins.map(b => [localTime(b.start), ...series.map(s => s.text(b))]).reverse() };
  }
}

const LANE = 22;

/** Escrows from opening to expiry, the soonest to expire first. Rows: {label, name, state, from, to, margin, filled, lines}. */
export class Timeline extends Chart {
  constructor({ title, empty }) {
    super({ title, height: 60 });
    Object.assign(this, { empty, rows: [], now: 0 });
  }

  length() {
    return this.rows.length;
  }

  update(rows, now, legend) {
    Object.assign(this, { rows, now });
    fill(this.legend, rows.length ? legend.map(([name, className]) => h('li', {}, h('span', { class: `swatch ${className}` }), name)) : []);
    this.draw();
    this.fillTable();
  }

  draw() {
    if (!this.width) return;
    if (this.rows.length === 0) {
      this.tip.hidden = true;
      fill(this.area, h('p', { class: 'empty' }, this.empty));
      this.table.hidden = true;
      return;
    }
    this.table.hidden = false;
    const narrow = this.width < 480;
    const left = narrow ? 66 : 120;
    const right = this.width - 1;
    const top = 20;
    this.height = top + this.rows.length * LANE + 20;
    const from = Math.min(this.now - 3600, ...this.rows.map(r => r.from));
    const to = Math.max(this.now + 3600, ...this.rows.map(r => r.to));
    const pad = (to - from) * 0.01;
    const x = linear(from - pad, to + pad, left, right);
    const bottom = this.height - 20;
    const parts = [h('defs', {}, h('pattern', { id: `${this.id}-hatch`, width: 5, height: 5, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
      h('rect', { width: 2, height: 5, class: 'hatch' })))];
    const offset = -new Date(this.now * 1000).getTimezoneOffset() * 60;
    const { at: when, step } = timeTicks(from, to, Math.max(2, Math.floor((right - left) / 70)), offset);
    for (const t of when) {
      const at = Math.round(x(t)) + 0.5;
      parts.push(h('line', { class: 'grid', x1: at, x2: at, y1: top, y2: bottom }),
        at > right - 20 ? null : h('text', { class: 'tick', x: at, y: this.height - 6, 'text-anchor': at - left < 18 ? 'start' : 'middle' },
          step >= 86400 || (t + offset) % 86400 === 0 ? day(t) : clock(t)));
    }
    this.rows.forEach((row, i) => {
      const y = top + i * LANE + 4;
      const [x0, x1] = [x(row.from), x(row.to)];
      const wide = Math.max(3, x1 - x0);
      parts.push(h('text', { class: 'lane', x: left - 8, y: y + 11, 'text-anchor': 'end' }, narrow ? row.brief : row.label),
        h('rect', { class: `lane-bar ${row.className}`, x: round(x0), y, width: round(wide), height: 14, rx: 2 }),
        h('rect', { class: `lane-fill ${row.className}`, x: round(x0), y: y + 9, width: round(wide * row.filled), height: 5, rx: 1 }));
      if (row.margin > 0) {
        const xm = Math.max(x0, x(row.to - row.margin));
        parts.push(h('rect', { x: round(xm), y, width: round(Math.max(1, x1 - xm)), height: 14, fill: `url(#${this.id}-hatch)` }));
      }
    });
    const now = Math.round(x(this.now)) + 0.5;
    parts.push(h('line', { class: 'now', x1: now, x2: now, y1: top - 4, y2: bottom }),
      h('text', { class: 'now-text', x: now, y: top - 8, 'text-anchor': now > right - 20 ? 'end' : 'middle' }, 'now'));
    const cursor = h('rect', { class: 'cursor', x: 0, width: this.width, y: 0, height: 0 });
    this.centers = this.rows.map(r => (Math.max(x(r.from), left) + x(r.to)) / 2);
    fill(this.area, this.svg(`${this.title}: ${this.rows.length} escrows. Arrow keys read them one by one.`, this.height, cursor, ...parts));
    this.mark();
  }

  hover(event) {
    const at = event.clientY - this.area.getBoundingClientRect().top - 20;
    const i = Math.floor(at / LANE);
    this.select(at >= 0 && i < this.rows.length ? i : null);
  }

  describe(i) {
    return this.rows[i].lines;
  }

  mark() {
    const cursor = this.area.querySelector('.cursor');
    if (!cursor || this.index === null || !this.rows[this.index]) {
      cursor?.setAttribute('height', 0);
      this.tip.hidden = true;
      return;
    }
    cursor.setAttribute('y', 20 + this.index * LANE);
    cursor.setAttribute('height', LANE);
    this.showTip(this.centers[this.index], this.centers[this.index], 20 + this.index * LANE, this.describe(this.index));
    if (20 + this.index * LANE < this.tip.offsetHeight + 8) setVars(this.tip, { top: `${20 + (this.index + 1) * LANE + 6}px` });
  }

  asTable() {
    return { head: this.rows[0].lines.slice(1).reduce((all, [name]) => [...all, name], ['Escrow']),
      rows: this.rows.map(r => [r.name, ...r.lines.slice(1).map(([, v]) => v)]) };
  }
}

/** A meter: how much of how much, with a mark where the alarm begins. */
export function meter({ label, fraction, text, alarm, mark = 0.8 }) {
  const shown = Math.max(0, Math.min(1, fraction));
  const svg = h('svg', { class: `meter ${alarm ? 'alarm' : ''}`, viewBox: '0 0 100 8', preserveAspectRatio: 'none', role: 'meter',
    'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(shown * 100), 'aria-valuetext': text },
  h('rect', { class: 'meter-track', x: 0, y: 0, width: 100, height: 8 }),
  h('rect', { class: 'meter-fill', x: 0, y: 0, width: round(shown * 100), height: 8 }),
  mark ? h('rect', { class: 'meter-mark', x: mark * 100, y: 0, width: 0.4, height: 8 }) : null);
  return svg;
}

/** A small bar in a table's cell. */
export function smallBar(fraction, className) {
  return h('svg', { class: 'small-bar', viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    h('rect', { class: 'meter-track', width: 100, height: 6 }), h('rect', { class: `bar ${className}`, width: round(Math.max(0, Math.min(1, fraction)) * 100), height: 6 }));
}
