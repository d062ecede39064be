//! Sharing out a rate.

/// The quota of each of `demands`, which together are not to exceed `total`; `None` for one that is below its share.
pub(super) fn water_fill(demands: &[f64], total: f64) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by(|&a, &b| demands[a].total_cmp(&demands[b]));
    let mut quotas = vec![None; demands.len()];
    let (mut left, mut sharers) = (total.max(0.0), demands.len());
    for at in order {
        let share = left / sharers as f64;
        if demands[at] > share {
            quotas[at] = Some(share);
        }
        left -= demands[at].min(share);
        sharers -= 1;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_less_than_its_share_leaves_the_rest_to_the_others() {
        assert_eq!(water_fill(&[10.0, 1000.0, 500.0], 210.0), [None, Some(100.0), Some(100.0)]);
        assert_eq!(water_fill(&[10.0, 1000.0, 50.0], 210.0), [None, Some(150.0), None]);
        assert_eq!(water_fill(&[10.0, 20.0], 100.0), [None, None]);
        assert_eq!(water_fill(&[f64::INFINITY, 20.0], 100.0), [Some(80.0), None]);
        assert_eq!(water_fill(&[], 100.0), []);
        assert_eq!(water_fill(&[5.0, 5.0], 0.0), [Some(0.0), Some(0.0)]);
    }
}
