//! What may be set by the interface while a client runs, and is kept for its next start.

use std::fs;
use std::path::{Path, PathBuf};

use obol_toll::payer::Budgets as PayerBudgets;
use serde::{Deserialize, Serialize};

use crate::client::stroops;
use crate::config::{Amount, ClientConfig, Paths, Pay, Payments};

/// What was set by the interface, in the state directory: it goes before the configuration.
pub(crate) const LIMITS: &str = "limits.json";

/// What may be set while the client runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(super) max_price_per_64_kib: u64,
    pub(super) max_tunnel_price_per_64_kib: Option<u64>,
    pub(super) pay: Pay,
    pub(super) paths: Paths,
    pub(super) budget_per_tunnel: Option<Amount>,
    pub(super) budget_per_day: Option<Amount>,
    pub(super) budget_per_month: Option<Amount>,
    pub(super) budget: Option<Amount>,
}

impl Limits {
    /// As the configuration has them.
    pub(crate) fn of(payments: &Payments) -> Limits {
        Limits {
            max_price_per_64_kib: payments.max_price_per_64_kib,
            max_tunnel_price_per_64_kib: payments.max_tunnel_price_per_64_kib,
            pay: payments.pay,
            paths: payments.paths,
            budget_per_tunnel: payments.budget_per_tunnel,
            budget_per_day: payments.budget_per_day,
            budget_per_month: payments.budget_per_month,
            budget: payments.budget,
        }
    }

    /// The configuration with these.
    pub(crate) fn put_into(self, payments: &mut Payments) {
        payments.max_price_per_64_kib = self.max_price_per_64_kib;
        payments.max_tunnel_price_per_64_kib = self.max_tunnel_price_per_64_kib;
        payments.pay = self.pay;
        payments.paths = self.paths;
        payments.budget_per_tunnel = self.budget_per_tunnel;
        payments.budget_per_day = self.budget_per_day;
        payments.budget_per_month = self.budget_per_month;
        payments.budget = self.budget;
    }

    pub(super) fn budgets(&self) -> PayerBudgets {
        PayerBudgets {
            tunnel: self.budget_per_tunnel.map(stroops),
            day: self.budget_per_day.map(stroops),
            month: self.budget_per_month.map(stroops),
            total: self.budget.map(stroops),
        }
    }

    /// Writes them as a whole, or not.
    pub(super) fn keep(&self, path: &Path) -> std::io::Result<()> {
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?;
        fs::write(&draft, text)?;
        fs::File::open(&draft)?.sync_all()?;
        fs::rename(&draft, path)
    }
}

/// What was set by the interface in an earlier run; `None`: nothing.
pub(crate) fn kept(config: &ClientConfig) -> Result<Option<Limits>, std::io::Error> {
    let path = config.path(&PathBuf::from(LIMITS));
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
