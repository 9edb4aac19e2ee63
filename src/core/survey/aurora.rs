//! Aurora global databases: one cluster writes, those of other regions follow by their storage.

/// What `aurora_global_db_status()` and `aurora_global_db_instance_status()` say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuroraGlobal {
    pub regions: Vec<AuroraRegion>,
    pub readers: Vec<AuroraReaderLag>,
}

/// One cluster of a global database.
#[derive(Clone, Debug, PartialEq)]
pub struct AuroraRegion {
    pub region: String,
    /// `durability_lag_in_msec`, in seconds. `None` for the region that writes.
    pub durability_lag: Option<f64>,
    /// `rpo_lag_in_msec`, in seconds. `None` for the region that writes.
    pub rpo_lag: Option<f64>,
    /// Seconds since `last_lag_calculation_time`. `None` when nothing was ever calculated.
    pub age: Option<f64>,
}

/// One instance of a global database.
#[derive(Clone, Debug, PartialEq)]
pub struct AuroraReaderLag {
    pub instance: String,
    pub region: String,
    /// `visibility_lag_in_msec`, in seconds. `None` for the writer, and when it is not known.
    pub visibility_lag: Option<f64>,
}
