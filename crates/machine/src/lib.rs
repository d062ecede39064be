//! A small reference monitor: memory, vCPUs, guest programs, devices, pause and state, on KVM or on the engine
