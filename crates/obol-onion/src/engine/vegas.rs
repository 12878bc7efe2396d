//! Vegas at the far end of a circuit: how many DATA cells may be under way to the client (proposal 324, section 3.3).
//!
//! ```text
//!                     queue < gamma, window full: grow fast
//!                   ┌──────┐
//!                   ▼      │     queue >= gamma, or our own queue is full: window := bdp + gamma
//!              slow start ─┴──────────────────────────────────────────────────► steady
//!                          window >= slow_start_max, or growth below steady's        │ once per update:
//!                                                                                    │ queue > delta     := bdp + delta - step
//!                                                                                    │ queue > beta      -= step
//!                                                                                    │ queue < alpha     += step, if full
//! ```
//!
//! Each SENDME measures the round trip of the cell that it quotes. The path without queues holds
//! `bdp = window * least round trip / present round trip` cells; the rest of the window is queues somewhere on the path,
//! our own circuit's included, because the clock starts when a cell is queued here.
//!
//! All in integers, with time as an argument. Nothing is allocated per cell.

use std::collections::VecDeque;

use super::congestion::VegasParameters;
use super::ids::Time;

/// A round trip this many times the present estimate is a clock's fault, not the network's.
const ABSURD: u64 = 5000;
/// The longest round trip that is told apart, in microseconds: over an hour. Keeps all products in 64 bits.
const LONGEST: u64 = u32::MAX as u64;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Vegas {
    /// DATA cells per SENDME.
    increment: u32,
    window: u32,
    /// DATA cells sent and not confirmed. May exceed the window when that has shrunk.
    inflight: u32,
    /// DATA cells since the last one whose time was kept.
    since_time: u32,
    /// When the cells were queued that will be quoted, oldest first.
    times: VecDeque<Time>,
    slow_start: bool,
    /// The window was used up lately, so its growth means something.
    full: bool,
    /// Our own queue was full at the last SENDME.
    blocked: bool,
    /// SENDMEs until the window may change again.
    until_update: u32,
    /// SENDMEs until a whole window has been confirmed.
    until_window: u32,
    /// Smoothed and least round trip in microseconds; 0: not measured yet.
    smoothed: u64,
    least: u64,
}

impl Vegas {
    pub(crate) fn new(increment: u8, parameters: &VegasParameters) -> Self {
        Vegas {
            increment: u32::from(increment.max(1)),
            window: parameters.initial,
            inflight: 0,
            since_time: 0,
            times: VecDeque::new(),
            slow_start: true,
            full: false,
            blocked: false,
            until_update: 1,
            until_window: 0,
            smoothed: 0,
            least: 0,
        }
    }

    /// DATA cells that may be queued now.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.window.saturating_sub(self.inflight)
    }

    /// DATA cells were queued.
    pub(crate) fn queued(&mut self, now: Time, cells: u32) {
        self.inflight = self.inflight.saturating_add(cells);
        self.since_time = self.since_time.saturating_add(cells);
        while self.since_time >= self.increment {
            self.since_time -= self.increment;
            self.times.push_back(now);
        }
    }

    /// A SENDME with the right tag came. `blocked`: this circuit's own queue is full.
    pub(crate) fn confirmed(&mut self, parameters: &VegasParameters, now: Time, blocked: bool) {
        let sent = self.times.pop_front();
        let took = sent.map_or(0, |sent| now.since(sent));
        self.learn(parameters, took, blocked);
        self.inflight = self.inflight.saturating_sub(self.increment);
    }

    /// SENDMEs between two changes of the window.
    fn update_rate(&self, parameters: &VegasParameters) -> u32 {
        if self.slow_start {
            return 1;
        }
        // At most 250 * 254.
        let unit = parameters.step_rate * self.increment;
        self.window.saturating_add(unit / 2) / unit
    }

    /// SENDMEs for a whole window.
    fn per_window(&self) -> u32 {
        self.window.saturating_add(self.increment / 2) / self.increment
    }

    fn set_window(&mut self, parameters: &VegasParameters, window: u64) {
        let most = parameters.max.max(parameters.min);
        self.window = u32::try_from(window).unwrap_or(most).clamp(parameters.min, most);
    }

    /// Takes a measured round trip in; false if it says nothing.
    fn measure(&mut self, parameters: &VegasParameters, took: u64) -> bool {
        let took = took.min(LONGEST);
        if took == 0 || !self.slow_start && self.smoothed > 0 && took > self.smoothed.saturating_mul(ABSURD) {
            return false;
        }
        let n = if self.slow_start {
            parameters.smooth_slow_start
        } else {
            let share = u64::from(self.update_rate(parameters)) * u64::from(parameters.smooth_percent) / 100;
            u32::try_from(share).unwrap_or(u32::MAX).min(parameters.smooth_max)
        };
        let n = u64::from(n.max(2));
        self.smoothed = match self.smoothed {
            0 => took,
            // Both factors are below 2^32.
            before => ((2 * took + (n - 1) * before) / (n + 1)).max(1),
        };
        let at_least = self.window == parameters.min && !self.slow_start;
        self.least = match self.least {
            0 => self.smoothed,
            // A window that cannot shrink further and still finds a queue: the path itself has become longer.
            least if at_least => {
                let (low, high) = (least.min(self.smoothed), least.max(self.smoothed));
                let percent = u64::from(parameters.reset_percent);
                ((percent * high + (100 - percent) * low) / 100).max(1)
            }
            least => least.min(self.smoothed),
        };
        true
    }

    /// Cells that the path holds without queues, by the present window.
    fn path(&self) -> u64 {
        u64::from(self.window) * self.least / self.smoothed.max(1)
    }

    fn learn(&mut self, parameters: &VegasParameters, took: u64, blocked: bool) {
        self.until_update = self.until_update.saturating_sub(1);
        self.until_window = self.until_window.saturating_sub(1);
        if !self.measure(parameters, took) {
            return;
        }
        if blocked != self.blocked {
            // Either way the path is not what it was: decide now.
            self.until_update = 0;
            self.blocked = blocked;
        }
        let path = self.path();
        let queue = u64::from(self.window).saturating_sub(path);
        self.judge_fullness(parameters);
        if self.slow_start {
            self.start_slowly(parameters, path, queue);
        } else if self.until_update == 0 {
            self.keep_steady(parameters, path, queue);
        }
        self.count_on(parameters);
    }

    fn judge_fullness(&mut self, parameters: &VegasParameters) {
        let (inflight, window) = (u64::from(self.inflight), u64::from(self.window));
        let gap = u64::from(self.increment) * u64::from(parameters.full_gap);
        if inflight + gap >= window {
            self.full = true;
        } else if 100 * inflight < u64::from(parameters.full_min_percent) * window {
            self.full = false;
        }
    }

    fn start_slowly(&mut self, parameters: &VegasParameters, path: u64, queue: u64) {
        if queue >= u64::from(parameters.gamma) || self.blocked {
            self.set_window(parameters, path + u64::from(parameters.gamma));
            self.slow_start = false;
        } else if self.full {
            // Limited slow start (RFC 3742).
            let (increment, cap) = (u64::from(self.increment), u64::from(parameters.slow_start_cap));
            let window = u64::from(self.window);
            let growth = if window <= cap {
                (u64::from(parameters.slow_start_percent) * increment + 50) / 100
            } else {
                ((increment * cap + window) / (2 * window)).max(1)
            };
            self.set_window(parameters, window + growth);
            let steady = u64::from(parameters.step) * u64::from(parameters.step_rate);
            if growth * u64::from(self.per_window()) <= steady {
                self.slow_start = false;
            }
        }
        if self.window >= parameters.slow_start_max {
            self.set_window(parameters, u64::from(parameters.slow_start_max));
            self.slow_start = false;
        }
    }

    fn keep_steady(&mut self, parameters: &VegasParameters, path: u64, queue: u64) {
        let (window, step) = (u64::from(self.window), u64::from(parameters.step));
        if queue > u64::from(parameters.delta) {
            self.set_window(parameters, (path + u64::from(parameters.delta)).saturating_sub(step));
        } else if queue > u64::from(parameters.beta) || self.blocked {
            self.set_window(parameters, window.saturating_sub(step));
        } else if self.full && queue < u64::from(parameters.alpha) {
            self.set_window(parameters, window + step);
        }
    }

    fn count_on(&mut self, parameters: &VegasParameters) {
        let update_rate = self.update_rate(parameters);
        let per_window = self.per_window();
        if self.until_update == 0 {
            self.until_update = update_rate;
        }
        if self.until_window == 0 {
            self.until_window = per_window;
        }
        let again = match parameters.full_per_window {
            0 => self.until_update == update_rate,
            _ => self.until_window == per_window,
        };
        if again {
            self.full = false;
        }
    }
}

#[cfg(test)]
mod tests;
