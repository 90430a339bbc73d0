// How much cache a core may count on.
#pragma once
#include <cstdint>
#include <string>

namespace gradstep {

// Bytes of the last-level cache divided by the CPUs that share it: found once, from
// /sys/devices/system/cpu/cpu0/cache; 2 MiB where that is not there.
int64_t cache_share();

// The same from a folder laid out like that one; 0 if nothing is found. (glibc's sysconf reports
// the sum over all sockets on some CPUs.)
int64_t cache_share_in(const std::string& folder);

}  // namespace gradstep
