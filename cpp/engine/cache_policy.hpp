// Which results go past the caches.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>

namespace gradstep {

// Whether a call's results should be stored past the caches: they have memory of their own, not
// that of what is `read`, and are more than the cores that write them are trusted to keep, so the
// first would be gone before anything could read them again.
bool past_cache(int64_t bytes, const void* out, std::initializer_list<const void*> read);

// Bytes of the last-level cache divided by the CPUs that share it, from a folder laid out like
// /sys/devices/system/cpu/cpu0/cache; 0 if nothing is found. (glibc's sysconf reports the sum over
// all sockets on some CPUs.)
int64_t cache_share_in(const std::string& folder);

}  // namespace gradstep
