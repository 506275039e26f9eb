//! Dates in the forms in which stores and gateways write them.
//!
//! A date without a zone counts as UTC. A date whose zone is only a name, such as `CET`, is not accepted.

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: i64 = 86_400;
/// No store is older, and no valid date is this far ahead.
const YEARS: std::ops::RangeInclusive<i64> = 1970..=9999;

/// Parses `text` in any usual form; `None`: it is not certainly a date.
pub(super) fn parse(text: &str) -> Option<DateTime> {
    let text = text.trim();
    let known = |format| DateTime::from_str(text, format).ok();
    known(DateTimeFormat::HttpDate)
        .or_else(|| known(DateTimeFormat::DateTimeWithOffset))
        .or_else(|| of_iso(text))
        .or_else(|| of_epoch(text))
        .or_else(|| of_words(text))
}

/// `2024-01-01`, `2024-01-01 00:00:00`, `2024-01-01T00:00:00.5`.
fn of_iso(text: &str) -> Option<DateTime> {
    let (day, time) = text.split_at_checked(10)?;
    let time = time.trim_start_matches([' ', 'T', 't']);
    let time = if time.is_empty() { "00:00:00" } else { time };
    let strict = |text: String| DateTime::from_str(&text, DateTimeFormat::DateTimeWithOffset).ok();
    strict(format!("{day}T{time}")).or_else(|| strict(format!("{day}T{time}Z")))
}

/// Seconds, or milliseconds, since 1970.
fn of_epoch(text: &str) -> Option<DateTime> {
    if !is_digits(text) {
        return None;
    }
    match text.len() {
        9 | 10 => text.parse().ok().map(DateTime::from_secs),
        13 => text.parse().ok().map(DateTime::from_millis),
        _ => None,
    }
}

/// `Mon, 1 Jan 2024 00:00:00 UTC` and its relatives: a day before its year, the month by its name, the zone last.
fn of_words(text: &str) -> Option<DateTime> {
    let (mut numbers, mut month, mut time, mut offset) = (Vec::new(), None, None, None);
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        if time.is_some() && offset.is_none() && zone(word).is_some() {
            offset = zone(word);
        } else if word.contains(':') {
            time = Some(seconds(word)?);
        } else {
            // `01-Jan-24` is three words.
            for part in word.split('-') {
                let lower = part.to_ascii_lowercase();
                let named = |names: &[&str]| names.iter().position(|name| lower.starts_with(name));
                if is_digits(part) && part.len() <= 4 {
                    numbers.push((part.parse::<i64>().ok()?, part.len()));
                } else if let Some(index) = named(&MONTHS) {
                    month = Some(i64::try_from(index).ok()? + 1);
                } else {
                    named(&WEEKDAYS)?;
                }
            }
        }
    }
    let [(day, _), (year, digits)] = numbers[..] else { return None };
    let year = match digits {
        2 if year < 70 => year + 2000,
        2 => year + 1900,
        _ => year,
    };
    Some(DateTime::from_secs(days(year, month?, day)? * DAY + time? - offset.unwrap_or_default()))
}

/// `07:08:09`, also with a fraction, which is dropped.
fn seconds(word: &str) -> Option<i64> {
    let whole = word.split_once('.').map_or(word, |(whole, _)| whole);
    let mut parts = whole.split(':').map(|part| part.parse::<i64>().ok().filter(|_| is_digits(part)));
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = hours < 24 && minutes < 60 && seconds <= 60 && parts.next().is_none();
    fits.then_some(hours * 3_600 + minutes * 60 + seconds)
}

/// Seconds ahead of UTC.
fn zone(word: &str) -> Option<i64> {
    if ["gmt", "utc", "ut", "z"].iter().any(|name| word.eq_ignore_ascii_case(name)) {
        return Some(0);
    }
    let sign = match word.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits = word[1..].replacen(':', "", 1);
    if digits.len() != 4 || !is_digits(&digits) {
        return None;
    }
    let (hours, minutes) = (digits[..2].parse::<i64>().ok()?, digits[2..].parse::<i64>().ok()?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days since 1970, by the civil calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month - 1).ok()?;
    if !YEARS.contains(&year) || !(1..=*lengths.get(before)?).contains(&day) {
        return None;
    }
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    Some(years + lengths[..before].iter().sum::<i64>() + day - 1)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_in_whatever_form_gateways_write_it() {
        for text in [
            "Mon, 01 Jan 2024 00:00:00 GMT",
            "Mon, 1 Jan 2024 00:00:00 UTC",
            "Monday, 01-Jan-24 00:00:00 GMT",
            "Mon, 01 Jan 2024 00:00:00 +0000",
            "Mon, 01 Jan 2024 01:30:00 +01:30",
            "Sun, 31 Dec 2023 19:00:00 -0500",
            "Mon Jan  1 00:00:00 2024",
            "01 Jan 2024 00:00:00 GMT",
            " mon, 01 january 2024 00:00:00 gmt ",
            "2024-01-01T00:00:00.000Z",
            "2024-01-01T00:00:00+00:00",
            "2024-01-01T00:00:00",
            "2024-01-01 00:00:00",
            "2024-01-01",
            "1704067200",
            "1704067200000",
        ] {
            let read = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((read.secs(), read.subsec_nanos()), (1_704_067_200, 0), "{text}");
        }
    }

    #[test]
    fn what_names_no_date_for_certain_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "never",
            "Mon, 01 Jan 2024 00:00:00 CET",
            "Mon, 32 Jan 2024 00:00:00 GMT",
            "Mon, 29 Feb 2023 00:00:00 GMT",
            "Mon, 01 Jan 2024",
            "01/02/2024 00:00:00",
            "Mon, 01 Foo 2024 00:00:00 GMT",
            "1 2 3 Jan 00:00:00",
            "99999999999999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_date_in_words_is_the_one_that_the_standard_form_names(secs in 0i64..253_402_300_799) {
            let at = DateTime::from_secs(secs);
            let text = at.fmt(DateTimeFormat::HttpDate).unwrap();
            proptest::prop_assert_eq!(of_words(&text), Some(at));
        }

        #[test]
        fn no_text_at_all_breaks_it(text in "\\PC{0,40}|[0-9A-Za-z:, +-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
