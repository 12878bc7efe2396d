//! The cashier: the one task that owns the payer, tells it what happened and carries out what it wants.
//!
//! | comes from | note | goes to the payer as |
//! |---|---|---|
//! | the proxy | a tunnel's first stream | `TunnelOpened` |
//! | a tunnel's task | traffic, an answer, its end | `Traffic`, `LinkBytes`, `Answer`, `TunnelClosed` |
//! | the journal | facts are durable | `Persisted` |
//! | the wallet | an offer, what became of an escrow | `Offer`, `EscrowOpened`, `OpeningFailed`, `EscrowEnded` |
//! | the clock | | `Tick` |

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use obol_cell::{EscrowId, EscrowOffer, EscrowState, PeerId, PricePer64KiB, RefuseCode, Stroops, ToNode, ToOrigin};
use obol_stellar::keys::EscrowPayer;
use obol_store::{Journal, StoreError};
use obol_toll::fact::PayerFact;
use obol_toll::payer::{Budgets, CloseReason, GiveUp, Hop, Input, Output, Payer, Report, Spent, Unpaid};
use obol_toll::{TunnelId, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::attend::attend;
use crate::choice::Known;
use crate::config::Pay;
use crate::events::{Event, Refusal, RetireReason};
use crate::runtime::LinkMeters;
use crate::talk::Order;
use crate::tunnels::{Tunnel, TunnelHop, Tunnels};
use crate::wallet::Wallet;
use crate::watch::Watch;

/// The payer may sleep this long at most; a clock that was set is noticed then.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// Notes taken in before what follows from them is carried out.
const BATCH: usize = 64;

/// Something that the cashier is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// A 51 came in a conversation.
    Answer { tunnel: TunnelId, body: Vec<u8> },
    /// Cells' worth of payload went up and down.
    Traffic { tunnel: TunnelId, up: u64, down: u64 },
    /// A tunnel has closed.
    Closed { tunnel: TunnelId, why: CloseReason },
    /// What became of a [`Output::Persist`].
    Persisted { seq: u64, outcome: Result<(), StoreError> },
    /// The wallet has made an escrow account's key, for an offer to this guard.
    Offer { guard: PeerId, offer: EscrowOffer },
    /// An escrow is on the ledger.
    EscrowOpened { escrow: EscrowId, balance: Stroops },
    /// An escrow will not be opened.
    OpeningFailed { escrow: EscrowId },
    /// An escrow has ended on the ledger.
    EscrowEnded { escrow: EscrowId, paid: Stroops },
    /// These escrows were opened elsewhere, and are not used here.
    Away { escrows: Vec<EscrowId> },
    /// All escrows are to be settled.
    CloseEscrows,
    /// This one is.
    CloseEscrow { escrow: EscrowId },
    /// When to pay, from now on.
    SetPay(Pay),
    /// What may be signed away, from now on.
    SetBudgets(Budgets),
    /// What is paid at most, for tunnels to come.
    SetCeilings { hop: PricePer64KiB, chain: Stroops },
}

/// What the cashier pays with; absent in a client that does not.
pub(crate) struct Till {
    pub(crate) payer: Payer<EscrowPayer>,
    pub(crate) journal: Journal<PayerFact>,
    pub(crate) wallet: Wallet,
}

/// A tunnel as the cashier keeps it.
struct Account {
    tunnel: Arc<Tunnel>,
    orders: mpsc::UnboundedSender<Order>,
    /// Own shares of the payment that is on its way, by hop.
    paying: Vec<i64>,
}

/// See the [module](self).
pub(crate) struct Cashier {
    till: Option<Till>,
    accounts: HashMap<TunnelId, Account>,
    /// Guards' addresses, and the bytes of their links that the payer knows of.
    guards: HashMap<PeerId, (Vec<SocketAddr>, u64)>,
    links: LinkMeters,
    tunnels: Arc<Tunnels>,
    /// What relays said about themselves, for whoever chooses tunnels.
    known: Arc<Mutex<Known>>,
    watch: Watch,
    notes: mpsc::UnboundedSender<Note>,
    /// Escrows that are open, and whose guard has said that it knows them.
    in_service: HashSet<EscrowId>,
    /// Whether there is one.
    ready: watch::Sender<bool>,
    /// What was signed away, as of the newest report.
    spent: watch::Sender<Spent>,
    /// The journal failed: nothing that costs money is done any more.
    halted: bool,
}

impl Cashier {
    pub(crate) fn new(
        till: Option<Till>,
        tunnels: Arc<Tunnels>,
        links: LinkMeters,
        known: Arc<Mutex<Known>>,
        watch: Watch,
        notes: mpsc::UnboundedSender<Note>,
    ) -> Cashier {
        let spent = till.as_ref().map(|till| till.payer.spent(now()));
        Cashier {
            till,
            accounts: HashMap::new(),
            guards: HashMap::new(),
            links,
            tunnels,
            known,
            watch,
            notes,
            in_service: HashSet::new(),
            ready: watch::Sender::new(false),
            spent: watch::Sender::new(spent.unwrap_or_default()),
            halted: false,
        }
    }

    /// Tells whether an escrow can be paid by at once.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Tells what was signed away.
    pub(crate) fn spent(&self) -> watch::Receiver<Spent> {
        self.spent.subscribe()
    }

    /// Works until `stop`.
    pub(crate) async fn run(
        mut self,
        mut opened: mpsc::UnboundedReceiver<Arc<Tunnel>>,
        mut notes: mpsc::UnboundedReceiver<Note>,
        stop: CancellationToken,
    ) {
        loop {
            self.carry_out();
            let wake = tokio::time::sleep(self.until_wake());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(tunnel) = opened.recv() => self.tunnel_opened(tunnel),
                Some(note) = notes.recv() => {
                    self.note(note);
                    for _ in 1..BATCH {
                        match notes.try_recv() {
                            Ok(note) => self.note(note),
                            Err(_) => break,
                        }
                    }
                }
                () = wake => {
                    self.tell(Input::Tick);
                    self.count_spent();
                }
            }
        }
    }

    /// Tells what was signed away, which is less when a day or a month begins.
    fn count_spent(&self) {
        if let Some(till) = &self.till {
            self.spent.send_replace(till.payer.spent(now()));
        }
    }

    fn until_wake(&self) -> Duration {
        let wake = self.till.as_ref().and_then(|till| till.payer.next_wake());
        match wake {
            Some(at) => Duration::from_millis(at.since(now())).min(LONGEST_SLEEP),
            None => LONGEST_SLEEP,
        }
    }

    fn tell(&mut self, input: Input) {
        if let Some(till) = &mut self.till {
            till.payer.handle(now(), input);
        }
    }

    fn tunnel_opened(&mut self, tunnel: Arc<Tunnel>) {
        self.watch.opened(&tunnel, self.till.is_some());
        let (orders, received) = mpsc::unbounded_channel();
        tokio::spawn(attend(Arc::clone(&tunnel), received, self.notes.clone()));
        let (id, hops) = (tunnel.id(), hops_of(&tunnel));
        if let Some(guard) = tunnel.hops().first()
            && let Some(peer) = guard.peer
        {
            self.watch.name(peer, guard.fingerprint());
            let (addresses, _) = self.guards.entry(peer).or_default();
            for address in &guard.addresses {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
        let account = Account {
            tunnel,
            orders,
            paying: Vec::new(),
        };
        self.accounts.insert(id, account);
        self.tell(Input::TunnelOpened { tunnel: id, hops });
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Answer { tunnel, body } => {
                let answer = ToOrigin::decode(&body);
                self.count(tunnel, answer.as_ref().is_ok_and(answer_pays));
                if let Ok(ToOrigin::Balance(books)) = answer {
                    self.serves(books.escrow, books.state == EscrowState::Open);
                }
                // A hop's meter is judged by what its guard's link carried until now.
                self.link_bytes(tunnel);
                self.tell(Input::Answer { tunnel, body });
            }
            Note::Traffic { tunnel, up, down } => {
                self.link_bytes(tunnel);
                self.tell(Input::Traffic { tunnel, up, down });
            }
            Note::Closed { tunnel, why } => {
                if let Some(account) = self.accounts.remove(&tunnel) {
                    self.tunnels.closed(&account.tunnel);
                }
                self.tell(Input::TunnelClosed { tunnel, why });
                self.watch.closed(tunnel);
            }
            Note::Persisted { seq, outcome: Ok(()) } => self.tell(Input::Persisted { upto: seq }),
            Note::Persisted {
                outcome: Err(trouble), ..
            } => {
                if !self.halted {
                    error!(%trouble, "the payment journal failed; nothing is paid any more");
                    self.watch.tell(Event::Warning {
                        text: format!("The payment journal failed, so nothing is paid any more: {trouble}"),
                    });
                }
                self.halted = true;
            }
            Note::Offer { guard, offer } => self.tell(Input::Offer { guard, offer }),
            Note::EscrowOpened { escrow, balance } => self.tell(Input::EscrowOpened { escrow, balance }),
            Note::OpeningFailed { escrow } => self.tell(Input::OpeningFailed { escrow }),
            Note::EscrowEnded { escrow, paid } => {
                self.serves(escrow, false);
                self.tell(Input::EscrowEnded { escrow, paid });
            }
            Note::Away { escrows } => {
                for escrow in &escrows {
                    self.serves(*escrow, false);
                }
                self.tell(Input::Away { escrows });
            }
            Note::SetPay(pay) => self.tell(Input::SetPolicy(pay.into())),
            Note::SetBudgets(budgets) => self.tell(Input::SetBudgets(budgets)),
            Note::SetCeilings { hop, chain } => self.tell(Input::SetCeilings { hop, chain }),
            Note::CloseEscrow { escrow } => {
                self.serves(escrow, false);
                self.tell(Input::Close { escrow });
            }
            Note::CloseEscrows => {
                let open: Vec<EscrowId> = self.till.iter().flat_map(|till| till.payer.open_escrows()).collect();
                for escrow in open {
                    self.serves(escrow, false);
                    self.tell(Input::Close { escrow });
                }
            }
        }
    }

    /// A guard said whether it serves on an escrow, or the ledger that it does not.
    fn serves(&mut self, escrow: EscrowId, serves: bool) {
        if serves {
            self.in_service.insert(escrow);
        } else {
            self.in_service.remove(&escrow);
        }
        self.ready.send_replace(!self.in_service.is_empty());
    }

    /// Tells the payer what the links to a tunnel's guard have carried since it was told last.
    fn link_bytes(&mut self, tunnel: TunnelId) {
        let guard = self
            .accounts
            .get(&tunnel)
            .and_then(|account| account.tunnel.hops().first()?.peer);
        if let Some(guard) = guard
            && let Some((addresses, told)) = self.guards.get_mut(&guard)
        {
            let carried = self.links.carried(addresses);
            let bytes = carried.saturating_sub(*told);
            *told = carried;
            self.tell(Input::LinkBytes { guard, bytes });
        }
    }

    /// Carries out all that the payer wants now.
    fn carry_out(&mut self) {
        while let Some(output) = self.till.as_mut().and_then(|till| till.payer.poll()) {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        let Some(till) = &self.till else { return };
        match output {
            Output::Persist { seq, facts } => {
                let notes = self.notes.clone();
                till.journal.append_then(facts, move |outcome| {
                    let outcome = outcome.map(drop);
                    // At the client's end nobody waits for it.
                    let _ = notes.send(Note::Persisted { seq, outcome });
                });
            }
            Output::Ask { tunnel, hop, body } => {
                self.count(tunnel, question_pays(&body));
                self.order(tunnel, Order::Ask { hop, body });
            }
            Output::Continue {
                tunnel,
                hop,
                second,
                body,
            } => {
                self.count(tunnel, question_pays(&body));
                self.order(tunnel, Order::Continue { hop, second, body });
            }
            Output::Send { tunnel, hop, body } => {
                self.count(tunnel, question_pays(&body));
                self.order(tunnel, Order::Send { hop, body });
            }
            Output::GiveUp { tunnel, why } => {
                self.watch.tell(Event::TunnelGivenUp {
                    tunnel: tunnel.0,
                    why: match why {
                        GiveUp::Silent => RetireReason::Silent,
                        GiveUp::Protocol { hop } => RetireReason::ProtocolError { hop },
                    },
                });
                self.order(tunnel, Order::Terminate);
            }
            Output::Retire { tunnel } => {
                if let Some(account) = self.accounts.get(&tunnel) {
                    self.tunnels.retire(&account.tunnel);
                    self.watch.tell(Event::TunnelRetired { tunnel: tunnel.0 });
                }
            }
            Output::WantEscrow {
                guard,
                rules,
                deposit,
                life,
            } => till.wallet.want(guard, rules, deposit, life),
            Output::OpenEscrow {
                escrow,
                deposit,
                refund,
            } => till.wallet.open(escrow, deposit, refund),
            // The wallet follows every open escrow, and takes it back when the *ledger's* clock has passed the expiry.
            Output::Refund { escrow, .. } => debug!(escrow = ?escrow.id(), "expired"),
            Output::Report(report) => self.report(report),
        }
    }

    fn order(&self, tunnel: TunnelId, order: Order) {
        if let Some(account) = self.accounts.get(&tunnel) {
            // A tunnel that has closed takes no orders; the payer hears of it soon.
            let _ = account.orders.send(order);
        }
    }

    /// Counts a 51 or 52.
    fn count(&self, tunnel: TunnelId, pays: bool) {
        self.watch.tunnel(tunnel, |figures| {
            if pays {
                figures.payment_cells += 1;
            } else {
                figures.setup_cells += 1;
            }
        });
    }

    fn hop(&self, tunnel: TunnelId, hop: u8) -> Option<&TunnelHop> {
        let account = self.accounts.get(&tunnel)?;
        account.tunnel.hops().get(usize::from(hop).checked_sub(1)?)
    }

    fn peer(&self, tunnel: TunnelId, hop: u8) -> Option<PeerId> {
        self.hop(tunnel, hop)?.peer
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&mut self, report: Report) {
        let watch = self.watch.clone();
        match report {
            Report::Quoted {
                tunnel,
                hop,
                price,
                credit,
            } => {
                let price_per_64_kib = price.stroops().get();
                watch.tunnel(tunnel, |figures| {
                    if let Some(figures) = figures.hops.get_mut(usize::from(hop).wrapping_sub(1)) {
                        figures.price_per_64_kib = Some(price_per_64_kib);
                    }
                });
                if let Some(peer) = self.peer(tunnel, hop) {
                    self.known().quoted(peer, price_per_64_kib, now());
                }
                watch.tell(Event::Quoted {
                    tunnel: tunnel.0,
                    hop,
                    price_per_64_kib,
                    initial_credit: credit,
                });
            }
            Report::Chain { tunnel, paid_hops } => {
                watch.tunnel(tunnel, |figures| {
                    figures.paid_hops = paid_hops;
                    // Nobody is paid across a gap.
                    for hop in figures.hops.iter_mut().skip(paid_hops.into()) {
                        hop.unpaid.get_or_insert(Refusal::ChainEnds);
                    }
                });
                watch.tell(Event::Chain {
                    tunnel: tunnel.0,
                    paid_hops,
                });
            }
            Report::Unpaid { tunnel, hop, why } => {
                let why = match self.hop(tunnel, hop).map(|hop| hop.payable) {
                    // What the directory says goes before what follows from it.
                    Some(Err(why)) => why,
                    _ => refusal(why),
                };
                watch.tunnel(tunnel, |figures| {
                    if let Some(figures) = figures.hops.get_mut(usize::from(hop).wrapping_sub(1)) {
                        figures.unpaid = Some(why);
                    }
                });
                if let Some(peer) = self.peer(tunnel, hop) {
                    let before = hop.checked_sub(1).and_then(|before| self.peer(tunnel, before));
                    self.known().unpaid(before, peer, why, now());
                }
                watch.tell(Event::NotPaid {
                    tunnel: tunnel.0,
                    hop,
                    why,
                });
            }
            Report::Requested { tunnel, metered } => {
                watch.tunnel(tunnel, |figures| {
                    figures.requests += 1;
                    if let Some(last) = last_paid(figures) {
                        last.metered = Some(metered);
                    }
                });
                watch.tell(Event::Requested {
                    tunnel: tunnel.0,
                    metered,
                });
            }
            Report::Paying {
                tunnel,
                n,
                step,
                amount,
            } => {
                let mut amounts = Vec::new();
                watch.tunnel(tunnel, |figures| {
                    let paid = figures.hops.iter().take(figures.paid_hops.into());
                    let own = |price: Option<i64>| {
                        price
                            .unwrap_or(0)
                            .saturating_mul(step.units().try_into().unwrap_or(i64::MAX))
                    };
                    amounts = paid.map(|hop| own(hop.price_per_64_kib)).collect();
                    figures.bought = figures.bought.saturating_add(step.bytes());
                    figures.spent = figures.spent.saturating_add(amount.get());
                });
                if let Some(account) = self.accounts.get_mut(&tunnel) {
                    account.paying.clone_from(&amounts);
                }
                watch.tell(Event::Paying {
                    tunnel: tunnel.0,
                    payment: n,
                    step: step.bytes(),
                    amounts,
                    total: amount.get(),
                });
            }
            Report::Paid {
                tunnel,
                n,
                took_ms,
                metered,
            } => {
                let account = self.accounts.get_mut(&tunnel);
                let (paying, since) = account.map_or((Vec::new(), None), |account| {
                    (
                        std::mem::take(&mut account.paying),
                        Some(account.tunnel.asked().elapsed()),
                    )
                });
                watch.tunnel(tunnel, |figures| {
                    figures.payments += 1;
                    for (hop, own) in figures.hops.iter_mut().zip(paying) {
                        hop.paid = hop.paid.saturating_add(own);
                    }
                    let millis = since.map(|since| since.as_millis().try_into().unwrap_or(u64::MAX));
                    figures.first_payment_ms = figures.first_payment_ms.or(millis);
                    if let Some(last) = last_paid(figures) {
                        last.metered = Some(metered);
                    }
                });
                watch.tell(Event::Paid {
                    tunnel: tunnel.0,
                    payment: n,
                    metered,
                    millis: took_ms,
                });
            }
            Report::Refused { tunnel, n, hop, code } => {
                watch.tunnel(tunnel, |figures| figures.refused += 1);
                watch.tell(Event::PaymentRefused {
                    tunnel: tunnel.0,
                    payment: n,
                    hop,
                    code: match code {
                        RefuseCode::NoFunds => "no funds",
                        RefuseCode::OverLimit => "over limit",
                        RefuseCode::Failed => "failed",
                        RefuseCode::Closing => "closing",
                    },
                });
            }
            Report::Withheld { tunnel } => watch.tell(Event::Withheld { tunnel: tunnel.0 }),
            Report::Helps { tunnel, helps } => watch.helps(tunnel, helps),
            Report::GuardNotPaid { guard } => watch.tell(Event::GuardNotPaid {
                guard: watch.guard(guard),
            }),
            // The wallet tells of escrows, and knows more.
            Report::EscrowInUse { escrow, .. } => debug!(?escrow, "escrow in use"),
            Report::EscrowEnded { escrow, .. } => debug!(?escrow, "escrow ended"),
        }
        if let Some(till) = &self.till {
            watch.signed(|escrow| till.payer.signed(escrow));
        }
        self.count_spent();
    }
}

/// The hops as the payer knows them: up to the first virtual one.
fn hops_of(tunnel: &Tunnel) -> Vec<Hop> {
    let hop = |hop: &TunnelHop| {
        let paid = hop.paid();
        hop.peer.map(|peer| Hop { peer, paid })
    };
    tunnel.hops().iter().map_while(hop).collect()
}

fn last_paid(figures: &mut crate::figures::TunnelFigures) -> Option<&mut crate::figures::HopFigures> {
    figures.hops.get_mut(usize::from(figures.paid_hops).wrapping_sub(1))
}

/// Whether a question belongs to paying, not to getting ready for it.
fn question_pays(body: &[u8]) -> bool {
    matches!(
        ToNode::decode(body),
        Ok(ToNode::Listen { .. } | ToNode::Cancel { .. } | ToNode::Pay(_))
    )
}

/// Whether an answer belongs to paying.
fn answer_pays(answer: &ToOrigin) -> bool {
    matches!(
        answer,
        ToOrigin::PaymentRequest { .. }
            | ToOrigin::Nothing { .. }
            | ToOrigin::Complete { .. }
            | ToOrigin::Refused { .. }
    )
}

fn refusal(why: Unpaid) -> Refusal {
    match why {
        Unpaid::TooDear { price } => Refusal::TooDear {
            price_per_64_kib: price.stroops().get(),
        },
        Unpaid::OtherMoney => Refusal::OtherMoney,
        Unpaid::QuoteChanged => Refusal::QuoteChanged,
        Unpaid::Declined => Refusal::Declined,
        Unpaid::ChainEnds => Refusal::ChainEnds,
        Unpaid::ForwardCeiling => Refusal::ForwardCeiling,
        Unpaid::Score => Refusal::Unreliable,
        Unpaid::OverClaimed => Refusal::OverClaimed,
        Unpaid::Budget => Refusal::BudgetSpent,
    }
}

/// The system's clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis().try_into().unwrap_or(u64::MAX))
}
