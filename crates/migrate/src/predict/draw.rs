//! Random numbers, and numbers of pages.

/// A draw of the standard normal distribution (Box and Muller).
pub(super) fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

/// A number of pages or bytes; what is negative or no number is none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(super) fn count(number: f64) -> u64 {
    number.round() as u64
}

/// The value below which the share `at` of the `sorted` numbers lies, interpolated. 0 if there are none.
pub(super) fn quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = (at * sorted.len() as f64 - 0.5).clamp(0.0, last as f64);
    let below = usize::try_from(count(place.floor())).unwrap_or(last).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (high - low) * (place - below as f64)
}
