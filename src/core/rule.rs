//! Rules: one signal, one comparison, how long it must hold. (To be written.)
