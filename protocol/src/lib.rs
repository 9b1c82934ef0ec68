//! What is said on the wire: messages, codec, states, validated names. No I/O.
