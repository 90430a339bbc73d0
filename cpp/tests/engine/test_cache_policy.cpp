#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine/cache_policy.hpp"
#include "engine/share_out.hpp"
#include "tests/check.hpp"

using namespace gradstep;
namespace fs = std::filesystem;

// A folder like /sys/devices/system/cpu/cpu0/cache, removed at the end.
class CacheFolder {
 public:
  CacheFolder() : path_(fs::temp_directory_path() / ("cache" + std::to_string(::getpid()))) {}
  ~CacheFolder() { fs::remove_all(path_); }
  std::string path() const { return path_.string(); }
  void add(int index, const char* level, const char* size, const char* cpus) const {
    const fs::path folder = path_ / ("index" + std::to_string(index));
    fs::create_directories(folder);
    std::ofstream(folder / "level") << level << '\n';
    std::ofstream(folder / "size") << size << '\n';
    std::ofstream(folder / "shared_cpu_list") << cpus << '\n';
  }

 private:
  fs::path path_;
};

TEST(the_deepest_level_counts_and_is_divided_by_those_who_share_it) {
  CacheFolder folder;
  CHECK_EQUAL(cache_share_in(folder.path()), 0);
  folder.add(0, "1", "48K", "0");
  CHECK_EQUAL(cache_share_in(folder.path()), 48 * 1024);
  folder.add(1, "2", "1024K", "0-1");
  folder.add(2, "3", "32M", "0-5,12,14-15");
  CHECK_EQUAL(cache_share_in(folder.path()), (32 << 20) / 9);
}

TEST(what_cannot_be_read_is_passed_over) {
  CacheFolder folder;
  folder.add(0, "1", "48K", "");
  folder.add(1, "2", "", "0");
  folder.add(2, "", "32M", "0");
  CHECK_EQUAL(cache_share_in(folder.path()), 48 * 1024);
}

TEST(only_large_results_with_memory_of_their_own_go_past_the_cache) {
  char a = 0, b = 0;
  ThreadPool::instance().set_threads(2);
  tuning.cache = 2000;
  CHECK(!past_cache(2000, &a, {&b}));
  CHECK(past_cache(2001, &a, {&b}));
  CHECK(!past_cache(2001, &a, {&b, &a}));
  tuning.cache = int64_t{1} << 60;
  CHECK(!past_cache(1000, &a, {&b}));
  CHECK(past_cache(int64_t{1} << 59, &a, {&b}));  // no machine's cores have so much
}
