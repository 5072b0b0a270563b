//! Who gets which CPUs, memory and devices of a node.
