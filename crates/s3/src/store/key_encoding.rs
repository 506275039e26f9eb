//! The encoding of keys in a listing.

use aws_sdk_s3::types::EncodingType;

/// How a listing encodes its keys. Requests ask for `encoding-type=url`, because XML cannot hold every key; a store
/// that does not support it returns keys unencoded, and no encoding in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyEncoding {
    Url,
    Plain,
}

impl KeyEncoding {
    /// Returns the encoding that the answer states.
    pub(super) fn of(answered: Option<&EncodingType>) -> Self {
        if answered == Some(&EncodingType::Url) { Self::Url } else { Self::Plain }
    }

    /// Returns the bytes of the key, decoded once: a decoded key may look encoded.
    pub(super) fn bytes(self, text: String) -> Vec<u8> {
        match self {
            Self::Url => decode(&text),
            Self::Plain => text.into_bytes(),
        }
    }

    /// Returns the key as text, for callers that cannot use a key that is not UTF-8.
    pub(super) fn text(self, text: String) -> String {
        match self {
            Self::Url => String::from_utf8_lossy(&decode(&text)).into_owned(),
            Self::Plain => text,
        }
    }
}

/// AWS writes a space as `+`.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let (byte, after) = match (first, others) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', others),
            },
            (b'+', _) => (b' ', others),
            (byte, _) => (*byte, others),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_key_is_decoded_once() {
        assert_eq!(KeyEncoding::Url.text("a+b%2Bc%252Fd/e%0A%C3%BC%".into()), "a b+c%2Fd/e\n\u{fc}%");
        assert_eq!(KeyEncoding::Plain.text("a+b%2B".into()), "a+b%2B");
    }

    #[test]
    fn what_is_no_text_stays_what_it_is() {
        assert_eq!(KeyEncoding::Url.bytes("%ff%00".into()), [0xff, 0]);
        assert_eq!(KeyEncoding::Url.text("%ff".into()), "\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_as_aws_does_is_read_as_it_was(key in ".{0,40}") {
            let written = |byte| match byte {
                b' ' => "+".to_owned(),
                b'a'..=b'z' | b'0'..=b'9' | b'/' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            };
            let written: String = key.bytes().map(written).collect();
            proptest::prop_assert_eq!(KeyEncoding::Url.text(written), key);
        }
    }
}
