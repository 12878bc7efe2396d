//! Requests for payment: `web+stellar:pay` addresses (SEP-7), to fund a wallet from another one.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};
use obol_cell::{AccountId, Asset, Stroops};

use crate::amount::{amount_text, parse_amount};
use crate::asset::{asset, asset_code};
use crate::key::{account_text, parse_account};
use crate::network::Network;
use crate::tx::Memo;

const SCHEME: &str = "web+stellar:pay?";
/// No request of ours is near this; a scanner may read anything.
const LONGEST: usize = 4096;
/// A message may have so many characters (SEP-7).
const LONGEST_MESSAGE: usize = 300;
/// What is signed begins with this: 35 zero bytes, the kind, the name.
const SIGNED_PREFIX: &[u8] =
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04stellar.sep.7 - URI Scheme";

/// A request to pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayRequest {
    /// Who is to be paid.
    pub destination: AccountId,
    /// How much; `None`: whoever pays decides.
    pub amount: Option<Stroops>,
    /// What; `None`: lumens.
    pub asset: Option<Asset>,
    /// What the payment has to carry.
    pub memo: Memo,
    /// What to show the one who pays: at most 300 characters.
    pub message: Option<String>,
    /// The network's passphrase; `None`: the public network.
    pub network_passphrase: Option<String>,
}

impl PayRequest {
    /// A request on a network.
    pub fn new(destination: AccountId, network: &Network) -> PayRequest {
        let public = *network == Network::public();
        PayRequest {
            destination,
            amount: None,
            asset: None,
            memo: Memo::None,
            message: None,
            network_passphrase: (!public).then(|| network.passphrase().to_owned()),
        }
    }

    /// The network on which to pay.
    pub fn network(&self) -> Network {
        match &self.network_passphrase {
            Some(passphrase) => Network::new(passphrase.clone()),
            None => Network::public(),
        }
    }
}

impl fmt::Display for PayRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}destination={}", account_text(&self.destination))?;
        if let Some(amount) = self.amount {
            write!(f, "&amount={}", amount_text(amount))?;
        }
        if let Some(asset) = &self.asset {
            let issuer = account_text(&AccountId(asset.issuer));
            write!(f, "&asset_code={}&asset_issuer={issuer}", asset_code(asset))?;
        }
        let memo = match &self.memo {
            Memo::None => None,
            Memo::Text(text) => Some((text.clone(), "MEMO_TEXT")),
            Memo::Id(id) => Some((id.to_string(), "MEMO_ID")),
            Memo::Hash(hash) => Some((BASE64.encode(hash), "MEMO_HASH")),
            Memo::Return(hash) => Some((BASE64.encode(hash), "MEMO_RETURN")),
        };
        if let Some((memo, kind)) = memo {
            write!(f, "&memo={}&memo_type={kind}", Encoded(&memo))?;
        }
        if let Some(message) = &self.message {
            let short: String = message.chars().take(LONGEST_MESSAGE).collect();
            write!(f, "&msg={}", Encoded(&short))?;
        }
        if let Some(passphrase) = &self.network_passphrase {
            write!(f, "&network_passphrase={}", Encoded(passphrase))?;
        }
        Ok(())
    }
}

/// A request as it was read: what it asks for, and what else it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What it asks for.
    pub request: PayRequest,
    /// Where the signed transaction should be sent in place of the ledger. Obol never does: it pays by itself, or not.
    pub callback: Option<String>,
    /// Who claims to have made it. To be shown to nobody before [`Received::is_signed_by`] was asked with the key of that
    /// domain's stellar.toml (`URI_REQUEST_SIGNING_KEY`).
    pub origin_domain: Option<String>,
    signed: Option<(Vec<u8>, [u8; 64])>,
}

impl Received {
    /// Whether the request bears this key's signature.
    pub fn is_signed_by(&self, key: &AccountId) -> bool {
        let Some((payload, signature)) = &self.signed else {
            return false;
        };
        VerifyingKey::from_bytes(&key.0)
            .and_then(|key| key.verify_strict(payload, &DalekSignature::from_bytes(signature)))
            .is_ok()
    }
}

impl FromStr for Received {
    type Err = BadRequest;

    fn from_str(text: &str) -> Result<Received, BadRequest> {
        if text.len() > LONGEST {
            return Err(BadRequest::TooLong);
        }
        let query = text.strip_prefix(SCHEME).ok_or(BadRequest::Scheme)?;
        let mut fields = Fields::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(BadRequest::Encoding)?;
            let Some(field) = fields.field(name) else { continue };
            if field.replace(decoded(value)?).is_some() {
                return Err(BadRequest::Twice);
            }
        }
        let signed = match &fields.signature {
            None => None,
            Some(signature) => {
                let at = text.find("&signature=").ok_or(BadRequest::Field("signature"))?;
                // It is the last parameter, and signs all before it.
                if text[at + 1..].contains('&') {
                    return Err(BadRequest::Field("signature"));
                }
                let bytes = BASE64.decode(signature).ok().and_then(|bytes| bytes.try_into().ok());
                let mut payload = SIGNED_PREFIX.to_vec();
                payload.extend_from_slice(&text.as_bytes()[..at]);
                Some((payload, bytes.ok_or(BadRequest::Field("signature"))?))
            }
        };
        let origin_domain = fields.origin_domain.take();
        if let Some(domain) = &origin_domain
            && (!super::stellar_toml::is_domain(domain) || signed.is_none())
        {
            return Err(BadRequest::Field("origin_domain"));
        }
        let callback = fields.callback.take();
        Ok(Received {
            request: fields.request()?,
            callback,
            origin_domain,
            signed,
        })
    }
}

#[derive(Default)]
struct Fields {
    destination: Option<String>,
    amount: Option<String>,
    asset_code: Option<String>,
    asset_issuer: Option<String>,
    memo: Option<String>,
    memo_type: Option<String>,
    message: Option<String>,
    network_passphrase: Option<String>,
    callback: Option<String>,
    origin_domain: Option<String>,
    signature: Option<String>,
}

impl Fields {
    /// Where a parameter goes; `None` for those that this does not know.
    fn field(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "destination" => &mut self.destination,
            "amount" => &mut self.amount,
            "asset_code" => &mut self.asset_code,
            "asset_issuer" => &mut self.asset_issuer,
            "memo" => &mut self.memo,
            "memo_type" => &mut self.memo_type,
            "msg" => &mut self.message,
            "network_passphrase" => &mut self.network_passphrase,
            "callback" => &mut self.callback,
            "origin_domain" => &mut self.origin_domain,
            "signature" => &mut self.signature,
            _ => return None,
        })
    }

    fn request(self) -> Result<PayRequest, BadRequest> {
        let destination = self.destination.ok_or(BadRequest::Field("destination"))?;
        let amount = self
            .amount
            .map(|amount| match parse_amount(&amount) {
                Ok(amount) if !amount.is_zero() => Ok(amount),
                _ => Err(BadRequest::Field("amount")),
            })
            .transpose()?;
        let asset = match (self.asset_code, self.asset_issuer) {
            (None, None) => None,
            (Some(code), None) if code == "XLM" => None,
            (Some(code), Some(issuer)) => {
                let issuer = parse_account(&issuer).map_err(|_| BadRequest::Field("asset_issuer"))?;
                Some(asset(&code, issuer).map_err(|_| BadRequest::Field("asset_code"))?)
            }
            // An asset is a code and an issuer: one alone could be taken for anything.
            (Some(_), None) => return Err(BadRequest::Field("asset_issuer")),
            (None, Some(_)) => return Err(BadRequest::Field("asset_code")),
        };
        if self
            .message
            .as_ref()
            .is_some_and(|message| message.chars().count() > LONGEST_MESSAGE)
        {
            return Err(BadRequest::Field("msg"));
        }
        Ok(PayRequest {
            destination: parse_account(&destination).map_err(|_| BadRequest::Field("destination"))?,
            amount,
            asset,
            memo: memo(self.memo, self.memo_type.as_deref())?,
            message: self.message,
            network_passphrase: self.network_passphrase,
        })
    }
}

fn memo(memo: Option<String>, kind: Option<&str>) -> Result<Memo, BadRequest> {
    let Some(memo) = memo else {
        return match kind {
            None => Ok(Memo::None),
            Some(_) => Err(BadRequest::Field("memo")),
        };
    };
    let hash = |memo: &str| -> Result<[u8; 32], BadRequest> {
        let bytes = BASE64.decode(memo).map_err(|_| BadRequest::Field("memo"))?;
        bytes.try_into().map_err(|_| BadRequest::Field("memo"))
    };
    match kind {
        None | Some("MEMO_TEXT") if memo.len() <= Memo::LONGEST_TEXT => Ok(Memo::Text(memo)),
        None | Some("MEMO_TEXT") => Err(BadRequest::Field("memo")),
        Some("MEMO_ID") => memo.parse().map(Memo::Id).map_err(|_| BadRequest::Field("memo")),
        Some("MEMO_HASH") => hash(&memo).map(Memo::Hash),
        Some("MEMO_RETURN") => hash(&memo).map(Memo::Return),
        Some(_) => Err(BadRequest::Field("memo_type")),
    }
}

/// Text with everything but unreserved characters percent-encoded (RFC 3986).
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> Result<String, BadRequest> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(BadRequest::Encoding);
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| BadRequest::Encoding)
}

/// Not a request for payment, or one that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// It is longer than any request.
    #[error("longer than a request for payment may be")]
    TooLong,
    /// It is something else, such as a request to sign a transaction that somebody else built, which Obol never does.
    #[error("not a request for payment (web+stellar:pay?...)")]
    Scheme,
    /// It is not percent-encoded text.
    #[error("not percent-encoded text")]
    Encoding,
    /// It says something twice.
    #[error("a parameter is there twice")]
    Twice,
    /// A parameter is missing or wrong.
    #[error("its parameter {0} is missing or wrong")]
    Field(&'static str),
}
