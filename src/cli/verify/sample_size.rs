//! The value of `--sample`.

use std::str::FromStr;

/// A share of all objects, more than none and at most all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SampleSize(pub(super) f64);

impl FromStr for SampleSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').ok_or("say how many per cent: 0.1%")?;
        let percent: f64 = number.trim().parse().map_err(|_| "say how many per cent: 0.1%".to_owned())?;
        if percent > 0.0 && percent <= 100.0 {
            Ok(Self(percent / 100.0))
        } else {
            Err("more than 0% and at most 100%".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_per_cent_and_is_neither_zero_nor_above_a_hundred() {
        assert_eq!("0.1%".parse(), Ok(SampleSize(0.001)));
        assert_eq!("100%".parse(), Ok(SampleSize(1.0)));
        for wrong in ["0%", "0.0%", "-1%", "100.1%", "NaN%", "inf%", "%", "0.1", "1", "", "a%"] {
            assert!(wrong.parse::<SampleSize>().is_err(), "{wrong}");
        }
    }
}
