//! Result codes out of a transaction's result XDR, in the words that Horizon has for them.

use stellar_xdr::{self as xdr, Limits, ReadXdr as _};

use super::{Code, ResultCodes};

/// Results of 100 operations stay far below this.
const LARGEST_RESULT: Limits = Limits {
    depth: 32,
    len: 64 * 1024,
};

/// The codes of a base64 `TransactionResult`; `None` when it is none.
pub(super) fn from_result_xdr(base64: &str) -> Option<ResultCodes> {
    use xdr::TransactionResultResult as R;
    let result = xdr::TransactionResult::from_xdr_base64(base64, LARGEST_RESULT).ok()?;
    let transaction = snake(result.result.name());
    let (inner, operations) = match &result.result {
        R::TxFeeBumpInnerSuccess(pair) | R::TxFeeBumpInnerFailed(pair) => {
            use xdr::InnerTransactionResultResult as I;
            let inner = &pair.result.result;
            let operations = match inner {
                I::TxSuccess(operations) | I::TxFailed(operations) => operations.as_slice(),
                _ => &[],
            };
            (Some(snake(inner.name())), operations)
        }
        R::TxSuccess(operations) | R::TxFailed(operations) => (None, operations.as_slice()),
        _ => (None, &[][..]),
    };
    Some(ResultCodes {
        transaction,
        inner,
        operations: operations.iter().map(operation).collect(),
    })
}

/// The fee that a base64 `TransactionResult` says was charged, stroops; `None` when it is none.
pub(super) fn fee_charged(base64: &str) -> Option<i64> {
    let result = xdr::TransactionResult::from_xdr_base64(base64, LARGEST_RESULT).ok()?;
    Some(result.fee_charged)
}

fn operation(result: &xdr::OperationResult) -> Code {
    use xdr::OperationResultTr as Tr;
    let name = match result {
        xdr::OperationResult::OpInner(inner) => match inner {
            Tr::CreateAccount(r) => match r {
                // Horizon calls it otherwise than the XDR does.
                xdr::CreateAccountResult::AlreadyExist => "AlreadyExists",
                other => other.name(),
            },
            Tr::Payment(r) => r.name(),
            Tr::SetOptions(r) => r.name(),
            Tr::ChangeTrust(r) => r.name(),
            Tr::AccountMerge(r) => r.name(),
            other => other.name(),
        },
        outer => return snake(outer.name()),
    };
    let Code(text) = snake(name);
    Code(format!("op_{text}"))
}

/// `TxBadSeq` is `tx_bad_seq`.
fn snake(name: &str) -> Code {
    let mut text = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    Code(text)
}
