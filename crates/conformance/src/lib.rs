//! The behaviour suite of KVM dirty tracking, generic over the interface
