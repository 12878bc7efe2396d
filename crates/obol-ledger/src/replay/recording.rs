//! The recording: what is in the file, checked; and what of it the ledger may see.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stellar_xdr::{
    Hash, LedgerEntryChanges, LedgerHeader, LedgerUpgrade, Limits, ReadXdr, TransactionEnvelope, TransactionMeta,
    TransactionResult, TransactionResultPair,
};

use super::ReplayError;
use crate::core::transaction::Frame;

/// What is read may be so long and nest so deep: far beyond any transaction's meta.
const LIMITS: Limits = Limits {
    depth: 500,
    len: 16 << 20,
};

/// The answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Accepted.
    Pending,
    /// Refused.
    Error,
    /// It was waiting already.
    Duplicate,
    /// The queue would not take it.
    TryAgainLater,
}

/// The file. What else it has, is for people.
#[derive(Debug, Deserialize)]
struct File {
    network_passphrase: String,
    submissions: Vec<FileSubmission>,
    ledgerheaders: Vec<FileHeader>,
    txhistory: Vec<FileTransaction>,
    #[serde(default)]
    txfeehistory: Option<Vec<FileFee>>,
}

#[derive(Debug, Deserialize)]
struct FileSubmission {
    lcl: u32,
    #[serde(default)]
    lcl_close_time: Option<u64>,
    envelope: String,
    hash: String,
    #[serde(default)]
    status: Option<Status>,
    #[serde(default)]
    error_result: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FileHeader {
    ledgerseq: u32,
    data: String,
}

#[derive(Debug, Deserialize)]
struct FileTransaction {
    ledgerseq: u32,
    txindex: u32,
    txid: String,
    txbody: String,
    #[serde(default)]
    txresult: Option<String>,
    #[serde(default)]
    txmeta: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FileFee {
    txid: String,
    #[serde(default)]
    txchanges: Option<String>,
}

/// A submission and its recorded answer.
#[derive(Clone, Debug)]
pub(super) struct Submitted {
    pub lcl: u32,
    pub frame: Frame,
    pub status: Option<Status>,
    pub error: Option<TransactionResult>,
}

/// An applied transaction and what is recorded of it.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub frame: Frame,
    pub result: Option<TransactionResult>,
    pub meta: Option<TransactionMeta>,
    pub fee_changes: Option<LedgerEntryChanges>,
}

/// A recording: the answers of another ledger, from its first ledger on.
#[derive(Clone, Debug)]
pub struct Recording {
    network_id: [u8; 32],
    pub(super) submissions: Vec<Submitted>,
    pub(super) headers: BTreeMap<u32, LedgerHeader>,
    pub(super) transactions: BTreeMap<u32, Vec<Recorded>>,
}

/// What the ledger sees of a recording: what was submitted when, what was in which ledger in which order, and what a ledger cannot
/// know by itself. No answer.
#[derive(Clone, Debug)]
pub struct Script {
    pub(super) network_id: [u8; 32],
    /// The first header, with nothing in it but what a genesis is made of.
    pub(super) genesis: LedgerHeader,
    /// In order: the last closed ledger, and the transaction.
    pub(super) submissions: Vec<(u32, Frame)>,
    pub(super) ledgers: Vec<Step>,
}

/// One ledger of a [`Script`].
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub sequence: u32,
    pub close_time: u64,
    pub set_hash: [u8; 32],
    pub upgrades: Vec<LedgerUpgrade>,
    pub frames: Vec<Frame>,
}

fn damaged(place: impl Into<String>, problem: impl Into<String>) -> ReplayError {
    ReplayError::Damaged {
        place: place.into(),
        problem: problem.into(),
    }
}

fn xdr<T: ReadXdr>(text: &str, place: impl Fn() -> String) -> Result<T, ReplayError> {
    T::from_xdr_base64(text.trim(), LIMITS).map_err(|error| damaged(place(), format!("no XDR in base64 ({error})")))
}

/// Of a field that may be left out, emptied or set to null.
fn maybe<T: ReadXdr>(text: Option<&String>, place: impl Fn() -> String) -> Result<Option<T>, ReplayError> {
    text.filter(|text| !text.trim().is_empty())
        .map(|text| xdr(text, place))
        .transpose()
}

/// The transaction in `text`, whose hash the file says is `hash`.
fn frame(text: &str, hash: &str, network_id: [u8; 32], place: impl Fn() -> String) -> Result<Frame, ReplayError> {
    let envelope: TransactionEnvelope = xdr(text, &place)?;
    let frame = Frame::new(envelope, network_id).ok_or_else(|| damaged(place(), "no transaction"))?;
    let found = hex::encode(frame.hash());
    if !found.eq_ignore_ascii_case(hash) {
        let problem = format!("its hash on this network is {found}, not {hash}");
        return Err(damaged(place(), problem));
    }
    Ok(frame)
}

impl Recording {
    /// Reads a recording. What it says of answers may be missing; what a replay needs may not.
    pub fn read(text: &str) -> Result<Self, ReplayError> {
        let file: File = serde_json::from_str(text).map_err(|error| ReplayError::Format(error.to_string()))?;
        let network_id: [u8; 32] = Sha256::digest(file.network_passphrase.as_bytes()).into();
        let headers = headers(&file)?;
        let submissions = submissions(&file, network_id, &headers)?;
        let transactions = transactions(&file, network_id, &headers, &submissions)?;
        Ok(Self {
            network_id,
            submissions,
            headers,
            transactions,
        })
    }

    /// What the ledger may see.
    pub fn script(&self) -> Script {
        let first = self.headers.values().next().cloned().unwrap_or_default();
        let ledgers = self.headers.iter().skip(1).map(|(sequence, header)| Step {
            sequence: *sequence,
            close_time: header.scp_value.close_time.0,
            set_hash: header.scp_value.tx_set_hash.0,
            upgrades: upgrades(header),
            frames: self
                .transactions
                .get(sequence)
                .into_iter()
                .flatten()
                .map(|recorded| recorded.frame.clone())
                .collect(),
        });
        Script {
            network_id: self.network_id,
            genesis: LedgerHeader {
                ledger_version: first.ledger_version,
                scp_value: first.scp_value,
                ledger_seq: first.ledger_seq,
                total_coins: first.total_coins,
                base_fee: first.base_fee,
                base_reserve: first.base_reserve,
                max_tx_set_size: first.max_tx_set_size,
                ..LedgerHeader::default()
            },
            submissions: self.submissions.iter().map(|s| (s.lcl, s.frame.clone())).collect(),
            ledgers: ledgers.collect(),
        }
    }

    /// Whether two files are of the same submissions.
    pub(super) fn is_of_the_same(&self, other: &Self) -> bool {
        let hashes = |of: &Self| {
            of.submissions
                .iter()
                .map(|s| (s.lcl, s.frame.hash()))
                .collect::<Vec<_>>()
        };
        self.network_id == other.network_id && hashes(self) == hashes(other)
    }
}

/// The upgrades that a header carries. One that cannot be read stands as the one that no ledger follows.
fn upgrades(header: &LedgerHeader) -> Vec<LedgerUpgrade> {
    header
        .scp_value
        .upgrades
        .iter()
        .map(|raw| LedgerUpgrade::from_xdr(raw.0.as_slice(), LIMITS).unwrap_or(LedgerUpgrade::Version(0)))
        .collect()
}

fn headers(file: &File) -> Result<BTreeMap<u32, LedgerHeader>, ReplayError> {
    let mut out: BTreeMap<u32, LedgerHeader> = BTreeMap::new();
    for (index, entry) in file.ledgerheaders.iter().enumerate() {
        let place = || format!("ledgerheaders[{index}]");
        let header: LedgerHeader = xdr(&entry.data, place)?;
        let wanted = out.len() as u32 + 1;
        if header.ledger_seq != entry.ledgerseq {
            let problem = format!("it is of ledger {}, not {}", header.ledger_seq, entry.ledgerseq);
            return Err(damaged(place(), problem));
        }
        if entry.ledgerseq != wanted {
            let problem = format!("ledger {wanted} should come here: a recording begins with ledger 1 and has no gaps");
            return Err(damaged(place(), problem));
        }
        out.insert(wanted, header);
    }
    if out.is_empty() {
        return Err(damaged("ledgerheaders", "there are none"));
    }
    Ok(out)
}

fn submissions(
    file: &File,
    network_id: [u8; 32],
    headers: &BTreeMap<u32, LedgerHeader>,
) -> Result<Vec<Submitted>, ReplayError> {
    let mut out: Vec<Submitted> = Vec::with_capacity(file.submissions.len());
    for (index, entry) in file.submissions.iter().enumerate() {
        let place = || format!("submissions[{index}]");
        let Some(last) = headers.get(&entry.lcl) else {
            return Err(damaged(place(), format!("there is no ledger {}", entry.lcl)));
        };
        if entry
            .lcl_close_time
            .is_some_and(|time| time != last.scp_value.close_time.0)
        {
            return Err(damaged(place(), "its close time is not that of its ledger"));
        }
        if out.last().is_some_and(|before| before.lcl > entry.lcl) {
            return Err(damaged(place(), "submissions must be in their order"));
        }
        out.push(Submitted {
            lcl: entry.lcl,
            frame: frame(&entry.envelope, &entry.hash, network_id, place)?,
            status: entry.status,
            error: maybe(entry.error_result.as_ref(), || format!("{}.error_result", place()))?,
        });
    }
    if out.is_empty() {
        return Err(damaged("submissions", "there are none"));
    }
    Ok(out)
}

fn transactions(
    file: &File,
    network_id: [u8; 32],
    headers: &BTreeMap<u32, LedgerHeader>,
    submissions: &[Submitted],
) -> Result<BTreeMap<u32, Vec<Recorded>>, ReplayError> {
    let mut fees: HashMap<String, LedgerEntryChanges> = HashMap::new();
    for (index, entry) in file.txfeehistory.iter().flatten().enumerate() {
        let changes = maybe(entry.txchanges.as_ref(), || format!("txfeehistory[{index}]"))?;
        if let Some(changes) = changes {
            fees.insert(entry.txid.to_ascii_lowercase(), changes);
        }
    }
    let mut out: BTreeMap<u32, Vec<(u32, Recorded)>> = BTreeMap::new();
    for (index, entry) in file.txhistory.iter().enumerate() {
        let place = || format!("txhistory[{index}]");
        if entry.ledgerseq < 2 || !headers.contains_key(&entry.ledgerseq) {
            return Err(damaged(place(), format!("there is no ledger {}", entry.ledgerseq)));
        }
        let frame = frame(&entry.txbody, &entry.txid, network_id, place)?;
        let hash = frame.hash();
        let submitted = submissions
            .iter()
            .any(|s| s.frame.hash() == hash && s.lcl < entry.ledgerseq);
        if !submitted {
            return Err(damaged(place(), "nobody had submitted it by then"));
        }
        let pair: Option<TransactionResultPair> = maybe(entry.txresult.as_ref(), || format!("{}.txresult", place()))?;
        if pair.as_ref().is_some_and(|pair| pair.transaction_hash != Hash(hash)) {
            return Err(damaged(place(), "its result is of another transaction"));
        }
        let recorded = Recorded {
            result: pair.map(|pair| pair.result),
            meta: maybe(entry.txmeta.as_ref(), || format!("{}.txmeta", place()))?,
            fee_changes: fees.remove(&entry.txid.to_ascii_lowercase()),
            frame,
        };
        out.entry(entry.ledgerseq).or_default().push((entry.txindex, recorded));
    }
    if let Some(stray) = fees.keys().next() {
        return Err(damaged("txfeehistory", format!("{stray} is in no ledger, or twice")));
    }
    let mut sorted = BTreeMap::new();
    for (ledger, mut list) in out {
        list.sort_by_key(|(place, _)| *place);
        if list
            .iter()
            .enumerate()
            .any(|(index, (place, _))| *place as usize != index + 1)
        {
            let problem = "its transactions are not numbered 1, 2, 3 and so on";
            return Err(damaged(format!("ledger {ledger} of txhistory"), problem));
        }
        sorted.insert(ledger, list.into_iter().map(|(_, recorded)| recorded).collect());
    }
    Ok(sorted)
}
