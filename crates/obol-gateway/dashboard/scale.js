// Where things go on a chart: scales, ticks, bins, paths, lanes. Pure.

/** A linear scale from [d0, d1] to [r0, r1]. */
export function linear(d0, d1, r0, r1) {
  const k = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  return value => r0 + (value - d0) * k;
}

/** Ticks from 0 to at least max: 1, 2 or 5 times a power of the base's. The last tick is the axis' end. */
export function ticks(max, wanted = 4) {
  if (!(max > 0)) return [0, 1];
  const raw = max / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw * (1 - 1e-9));
  return upTo(max, step);
}

/** The same for bytes: steps of 1, 2, 4 ... 512 of a binary unit. */
export function byteTicks(max, wanted = 4) {
  if (!(max > 0)) return [0, 1024];
  return upTo(max, 2 ** Math.ceil(Math.log2(Math.max(1, max / wanted)) - 1e-9));
}

/** For counts: whole steps only. */
export function countTicks(max, wanted = 4) {
  return max <= 1 ? [0, 1] : max <= wanted ? upTo(max, 1) : ticks(max, wanted).filter(Number.isInteger);
}

function upTo(max, step) {
  const n = Math.max(1, Math.ceil(max / step - 1e-9));
  return Array.from({ length: n + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

export const RANGES = {
  hour: { title: 'Hour', bin: 60, bins: 60, label: 'minute' },
  day: { title: 'Day', bin: 3600, bins: 24, label: 'hour' },
  week: { title: 'Week', bin: 3600, bins: 168, label: 'hour' },
  month: { title: 'Month', bin: 86400, bins: 31, label: 'day' },
};

/** The query of a range that ends now: whole bins, the present one last. */
export function rangeQuery(name, now) {
  const { bin, bins } = RANGES[name];
  const to = (Math.floor(now / bin) + 1) * bin;
  return { bin, from: to - bin * bins, to };
}

/** Which bins get a label on the time axis, at most so many. Offset: seconds that local time is ahead of UTC. */
export function timeTicks(from, to, most, offset = 0) {
  const steps = [300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 345600, 604800];
  const step = steps.find(s => (to - from) / s <= most) ?? 1209600;
  const out = [];
  for (let t = Math.ceil((from + offset) / step) * step - offset; t < to; t += step) out.push(t);
  return { step, at: out };
}

/** An SVG path that goes level to each next point's x, then up or down. */
export function stepPath(points, endX) {
  if (points.length === 0) return '';
  let path = `M${round(points[0][0])} ${round(points[0][1])}`;
  for (const [x, y] of points.slice(1)) path += `H${round(x)}V${round(y)}`;
  return `${path}H${round(endX)}`;
}

export const round = x => Math.round(x * 100) / 100;

/** Where the bars of one bin begin and how wide they are: groups side by side, crisp on whole pixels where there is room. */
export function barSlots(x0, x1, groups) {
  const width = x1 - x0;
  const gap = width > 12 ? Math.max(2, width * 0.16) : width > 4 ? 1 : 0;
  const each = (width - gap) / groups;
  return Array.from({ length: groups }, (_, i) => [x0 + gap / 2 + i * each, Math.max(0.5, each - (groups > 1 && each > 4 ? 1 : 0))]);
}

/** Puts stacked values on top of each other: [[from, to] per value]. */
export function stack(values) {
  let at = 0;
  return values.map(v => [at, (at += v)]);
}
