#include "engine/cache_policy.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "engine/share_out.hpp"

namespace gradstep {

// The CPUs of a list like "0-3,8,10-11"; 1 where it cannot be read.
static int64_t count_cpus(const std::string& list) {
  std::istringstream ranges(list);
  int64_t count = 0;
  for (std::string range; std::getline(ranges, range, ',');) {
    std::istringstream text(range);
    int64_t first = 0, last = 0;
    char dash = 0;
    text >> first;
    last = text >> dash >> last ? last : first;
    count += std::max<int64_t>(last - first + 1, 1);
  }
  return std::max<int64_t>(count, 1);
}

int64_t cache_share_in(const std::string& folder) {
  int64_t share = 0;
  int deepest = 0;
  for (int index = 0; index < 16; ++index) {
    const std::string cache = folder + "/index" + std::to_string(index);
    int level = 0;
    int64_t size = 0;
    char unit = 0;
    std::string list;
    std::ifstream(cache + "/level") >> level;
    std::ifstream(cache + "/size") >> size >> unit;
    std::ifstream(cache + "/shared_cpu_list") >> list;
    if (level <= deepest || size <= 0) continue;
    deepest = level;
    share = size * (unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1) / count_cpus(list);
  }
  return share;
}

static int64_t cache_share() {
  static const int64_t share = [] {
    const int64_t found = cache_share_in("/sys/devices/system/cpu/cpu0/cache");
    return found > 0 ? found : int64_t{2} << 20;
  }();
  return share;
}

bool past_cache(int64_t bytes, const void* out, std::initializer_list<const void*> read) {
  // A virtual machine may show the whole of its host's cache to a few CPUs, hence the cap.
  const int64_t kept = cache_share() * ThreadPool::instance().threads();
  if (bytes <= std::min<int64_t>(kept, tuning.cache)) return false;
  return std::find(read.begin(), read.end(), out) == read.end();
}

}  // namespace gradstep
