//! The kernel's side of dirty tracking in software: memslots, vCPUs, rings, backup bitmaps, errnos
