//! Sources, epochs, the cut and the audit: every written page, merged, owned and accounted for
