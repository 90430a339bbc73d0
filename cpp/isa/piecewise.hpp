// Functions of float in sixteen intervals, each with a polynomial of its own, which are chosen in
// registers. A polynomial is in the distance to a centre where the function is all but a float:
// so the constant, to which the others add little, costs no rounding. Coefficients are minimax for
// the relative error, found in 40 digits, and each was rounded before the next ones were found.
#pragma once
#include "isa/math.hpp"

namespace gradstep::GRADSTEP_ISA {

inline constexpr int kIntervals = 16;

template <int kDegree>
struct Piecewise {
  float centre[kIntervals], c[kDegree + 1][kIntervals];
};

// index: its low four bits count. In pairs, which halves the latency; the constant comes last.
template <int kDegree, class V>
ALWAYS_INLINE V piecewise(const Piecewise<kDegree>& p, typename Lane<V>::bits index, V x) {
  const V t = x - lookup(p.centre, index), square = t * t;
  const auto pair = [&](int i) __attribute__((always_inline)) {
    return lookup(p.c[i], index) + lookup(p.c[i + 1], index) * t;
  };
  constexpr int kTop = kDegree % 2 ? kDegree : kDegree - 1;
  V sum = kDegree % 2 ? lookup(p.c[kTop], index) : pair(kTop);
#pragma GCC unroll 16
  for (int i = kTop - 2; i > 0; i -= 2) sum = sum * square + pair(i);
  return lookup(p.c[0], index) + sum * t;
}

// tanh(a) for 0 <= a <= kTanhEnd, where it rounds to 1, by the exponent and two more bits of
// kTanhScale a + 1/2.
inline constexpr float kTanhEnd = 9.25f, kTanhScale = 0.7890625f;
alignas(64) [[maybe_unused]] static constexpr Piecewise<5> kTanh = {
    {0x1.1be376p1f, 0x1.6cfd24p1f, 0x1.be192p1f, 0x1.079accp2f, 0x1.447052p2f, 0x1.958e86p2f,
     0x1.e6aa68p2f, 0x1.1bca2ep3f, 0x0p0f, 0x1.e6a75ep-3f, 0x1.958b14p-2f, 0x1.1be16ap-1f,
     0x1.958b4cp-1f, 0x1.1be166p0f, 0x1.6cfd6ap0f, 0x1.be171cp0f},
    {{0x1.f402fap-1f, 0x1.fc985ep-1f, 0x1.ff09fap-1f, 0x1.ffbaaep-1f, 0x1.fff5a4p-1f,
      0x1.ffff2ep-1f, 0x1.fffffp-1f, 0x1.fffffep-1f, 0x0p0f, 0x1.ddb246p-3f, 0x1.819768p-2f,
      0x1.01f8c4p-1f, 0x1.51b51ap-1f, 0x1.9b7b6ep-1f, 0x1.c815b6p-1f, 0x1.e18be8p-1f},
     {0x1.7b22f2p-5f, 0x1.b25e28p-7f, 0x1.eb95fep-9f, 0x1.153566p-10f, 0x1.4b879cp-13f,
      0x1.a4728cp-17f, 0x1.0ab27p-20f, 0x1.546858p-24f, 0x1p0f, 0x1.e424f2p-1f, 0x1.b766e8p-1f,
      0x1.7e054ap-1f, 0x1.2140dap-1f, 0x1.6a9a7p-2f, 0x1.a6e54ap-3f, 0x1.d8c3d6p-4f},
     {-0x1.723c1cp-5f, -0x1.af6946p-7f, -0x1.ea9276p-9f, -0x1.150344p-10f, -0x1.4a68ecp-13f,
      -0x1.a71e32p-17f, -0x1.727c66p-20f, 0x1.52c2dcp-22f, 0x0p0f, -0x1.c3b476p-3f, -0x1.4aea86p-2f,
      -0x1.80f66ep-2f, -0x1.7d934cp-2f, -0x1.236bbcp-2f, -0x1.78b782p-3f, -0x1.bca5a6p-4f},
     {0x1.d671dap-6f, 0x1.1bc8ap-7f, 0x1.45d1bp-9f, 0x1.70f3b2p-11f, 0x1.b85f8ep-14f,
      0x1.17c30ap-17f, 0x1.62d2e4p-21f, 0x1.beaea6p-25f, -0x1.555b9ap-2f, -0x1.0e17e6p-2f,
      -0x1.50a8a4p-3f, -0x1.e5b59p-5f, 0x1.d6ab6ep-5f, 0x1.c55c9p-4f, 0x1.8539fep-4f,
      0x1.049d4ap-4f},
     {-0x1.ac4cap-7f, -0x1.188b14p-8f, -0x1.4938dap-10f, -0x1.76ec72p-12f, -0x1.db939p-15f,
      -0x1.1a7d96p-18f, 0x1.47960ap-21f, -0x1.108c82p-20f, 0x1.49594ap-11f, 0x1.13661cp-3f,
      0x1.5a2fap-3f, 0x1.3d36e6p-3f, 0x1.6227ap-4f, 0x1.ae6bb2p-8f, -0x1.78e448p-6f,
      -0x1.826ef2p-6f},
     {0x1.0cbd74p-8f, 0x1.a70b54p-10f, 0x1.032432p-11f, 0x1.2a9e62p-13f, 0x1.7befc4p-16f,
      0x1.dcaa34p-20f, 0x1.314646p-23f, 0x1.011086p-26f, 0x1.082df4p-3f, 0x1.41e88cp-4f,
      0x1.5a440cp-7f, -0x1.564a78p-5f, -0x1.00d124p-4f, -0x1.1655a2p-5f, -0x1.acaf24p-8f,
      0x1.cc4652p-9f}}};

template <class V>
ALWAYS_INLINE V tanh_by_intervals(V x) {
  const V a = at_most(abs(x), kTanhEnd);
  const auto index = bits_as<typename Lane<V>::bits>(a * kTanhScale + 0.5f) >> 21;
  return with_sign(piecewise(kTanh, index, a), x);
}

// Of the standard normal distribution at 0 <= a <= kNormalEnd, by the nearest integer to
// a (kNormalLinear + kNormalSquare a): narrower where it falls faster. The probability above a, and
// that minus a times the density, which is the slope of gelu at -a.
inline constexpr float kNormalEnd = 5.625f, kNormalLinear = 1.3f, kNormalSquare = 0.25859f;
alignas(64) [[maybe_unused]] static constexpr Piecewise<6> kNormalAbove = {
    {0x1.6f98e8p-3f, 0x1.539b76p-1f, 0x1.39e2d8p0f, 0x1.b69e4p0f, 0x1.13204ep1f, 0x1.461c5ep1f,
     0x1.75591cp1f, 0x1.a18ffp1f, 0x1.cb44e8p1f, 0x1.f2da16p1f, 0x1.0c4ce4p2f, 0x1.1e6246p2f,
     0x1.2fc324p2f, 0x1.40822cp2f, 0x1.50b112p2f, 0x1.605e98p2f},
    {{0x1.b71118p-2f, 0x1.03a808p-2f, 0x1.c2e052p-4f, 0x1.62e8c4p-5f, 0x1.02dfccp-6f,
      0x1.6347d4p-8f, 0x1.cf8d9ap-10f, 0x1.21cc42p-11f, 0x1.5d5b6p-13f, 0x1.980478p-15f,
      0x1.cf8164p-17f, 0x1.00b23cp-18f, 0x1.1614aap-20f, 0x1.275afcp-22f, 0x1.34003ep-24f,
      0x1.3bb944p-26f},
     {-0x1.91fd3p-2f, -0x1.47d952p-2f, -0x1.814a72p-3f, -0x1.788bbcp-4f, -0x1.446554p-5f,
      -0x1.fd2afap-7f, -0x1.7385ap-8f, -0x1.ff2dcap-10f, -0x1.4ee73p-11f, -0x1.a50d28p-13f,
      -0x1.feea8ep-15f, -0x1.2c568ap-16f, -0x1.5787cep-18f, -0x1.7f887ep-20f, -0x1.a2d0acp-22f,
      -0x1.c017cep-24f},
     {0x1.209d18p-5f, 0x1.b2ebc4p-4f, 0x1.d8695ap-4f, 0x1.4293eap-4f, 0x1.5ca1cep-5f,
      0x1.444e9cp-6f, 0x1.0ee986p-7f, 0x1.a0e47ep-9f, 0x1.2c694cp-10f, 0x1.9a3d1p-12f,
      0x1.0bbb6cp-13f, 0x1.4ffbdp-15f, 0x1.979f6p-17f, 0x1.e02d46p-19f, 0x1.136988p-20f,
      0x1.3462d4p-22f},
     {0x1.0359ccp-4f, 0x1.e9a1aep-6f, -0x1.028a52p-6f, -0x1.e5e11p-6f, -0x1.87718ep-6f,
      -0x1.d1fbp-7f, -0x1.d0e0dep-8f, -0x1.9abbacp-9f, -0x1.4b6258p-10f, -0x1.f1d704p-12f,
      -0x1.60d3dp-13f, -0x1.dc18c6p-15f, -0x1.341db4p-16f, -0x1.80c68p-18f, -0x1.d1798p-20f,
      -0x1.119f6ap-21f},
     {-0x1.1d9008p-7f, -0x1.730eaap-6f, -0x1.d7405ap-7f, -0x1.bb6b92p-12f, 0x1.787852p-8f,
      0x1.79582ep-8f, 0x1.f15636p-9f, 0x1.097f36p-9f, 0x1.ee6826p-11f, 0x1.a0bb54p-12f,
      0x1.45362ep-13f, 0x1.dcb7c6p-15f, 0x1.4bb808p-16f, 0x1.b9dcf2p-18f, 0x1.1b40aap-19f,
      0x1.5f127ap-21f},
     {-0x1.2a2bcep-7f, -0x1.87d0f4p-10f, 0x1.7c3b4ep-8f, 0x1.2b918p-8f, 0x1.27cbc6p-10f,
      -0x1.9c045p-11f, -0x1.2be746p-10f, -0x1.be0daap-11f, -0x1.ffe144p-12f, -0x1.f66f7ep-13f,
      -0x1.ba28c6p-14f, -0x1.65dcbp-15f, -0x1.0f0568p-16f, -0x1.84952ap-18f, -0x1.09eaccp-19f,
      -0x1.5d893cp-21f},
     {0x1.7c8c98p-10f, 0x1.97c19ap-9f, 0x1.65cd3ap-11f, -0x1.45b4eap-10f, -0x1.2c94e8p-10f,
      -0x1.b5b8ccp-12f, 0x1.d2672ep-15f, 0x1.90066ep-13f, 0x1.57971p-13f, 0x1.a6f5fep-14f,
      0x1.b3c132p-15f, 0x1.8d4e1ep-16f, 0x1.4c83a4p-17f, 0x1.0294ecp-18f, 0x1.7c0d88p-20f,
      0x1.0a489cp-21f}}};
alignas(64) [[maybe_unused]] static constexpr Piecewise<6> kGeluSlope = {
    {0x1.6f9894p-3f, 0x1.539b9ep-1f, 0x1.39e36p0f, 0x1.b69eb6p0f, 0x1.131f28p1f, 0x1.461c62p1f,
     0x1.7559a2p1f, 0x1.a18f7ep1f, 0x1.cb442ep1f, 0x1.f2d9eep1f, 0x1.0c4e08p2f, 0x1.1e61e2p2f,
     0x1.2fc2ecp2f, 0x1.40825ap2f, 0x1.50b2eap2f, 0x1.605e0ap2f},
    {{0x1.6ee9f6p-2f, 0x1.518f84p-5f, -0x1.edf34ep-4f, -0x1.d3b2d2p-4f, -0x1.1beda6p-4f,
      -0x1.17e588p-5f, -0x1.e3dc6p-7f, -0x1.7caedp-8f, -0x1.1698c8p-9f, -0x1.80be8cp-11f,
      -0x1.fa5b7p-13f, -0x1.3ff912p-14f, -0x1.86444ap-16f, -0x1.cdb1aep-18f, -0x1.09a306p-19f,
      -0x1.2a930ep-21f},
     {-0x1.8b838p-1f, -0x1.ff74d4p-2f, -0x1.7eae0ap-4f, 0x1.604acp-4f, 0x1.a8f834p-4f,
      0x1.1dd536p-4f, 0x1.2e34ap-5f, 0x1.141bfcp-6f, 0x1.c73f78p-8f, 0x1.5b13f4p-9f,
      0x1.f133aep-11f, 0x1.5259dcp-12f, 0x1.b8c21p-14f, 0x1.149a8p-15f, 0x1.4fdd52p-17f,
      0x1.8c8a5ap-19f},
     {0x1.1e49bep-3f, 0x1.831552p-2f, 0x1.26db4cp-2f, 0x1.575972p-4f, -0x1.b03cc8p-6f,
      -0x1.93ebdcp-5f, -0x1.314926p-5f, -0x1.5a223p-6f, -0x1.4d405p-7f, -0x1.1ee248p-8f,
      -0x1.c62f7ep-10f, -0x1.508128p-11f, -0x1.d80876p-13f, -0x1.3c4b6cp-14f, -0x1.9754d8p-16f,
      -0x1.fb4172p-18f},
     {0x1.f9e4c2p-3f, 0x1.e707acp-5f, -0x1.11bbbcp-3f, -0x1.f1c1e8p-4f, -0x1.7a4d84p-5f,
      0x1.d82c64p-10f, 0x1.0479ecp-6f, 0x1.c75f08p-7f, 0x1.15c92ep-7f, 0x1.198966p-8f,
      0x1.f9119ap-10f, 0x1.9e334ap-11f, 0x1.3c8218p-12f, 0x1.c8d542p-14f, 0x1.3a11aap-15f,
      0x1.9eb5cap-17f},
     {-0x1.a874ep-5f, -0x1.e3c68ap-4f, -0x1.25202ap-5f, 0x1.30fd22p-5f, 0x1.4d5e66p-5f,
      0x1.3080dap-6f, 0x1.21481ep-9f, -0x1.ecdbd2p-9f, -0x1.07a0bcp-8f, -0x1.5ccbc2p-9f,
      -0x1.746124p-10f, -0x1.5bb51ap-11f, -0x1.26cc9cp-12f, -0x1.d019f6p-14f, -0x1.57d3fep-15f,
      -0x1.e4cd2ep-17f},
     {-0x1.b345a8p-5f, 0x1.bcab86p-9f, 0x1.46fe54p-5f, 0x1.e1d836p-7f, -0x1.0a6ffp-7f,
      -0x1.71224p-7f, -0x1.87fc2ap-8f, -0x1.64a3aep-10f, 0x1.4843acp-11f, 0x1.f0cee8p-11f,
      0x1.6ae366p-11f, 0x1.9a566ep-12f, 0x1.8f6266p-13f, 0x1.5e55b6p-14f, 0x1.1be548p-15f,
      0x1.b03242p-17f},
     {0x1.75d748p-7f, 0x1.581bb4p-6f, -0x1.077226p-9f, -0x1.785858p-7f, -0x1.3392c4p-8f,
      0x1.840572p-10f, 0x1.620b4ap-9f, 0x1.a16168p-10f, 0x1.f1a6fcp-12f, -0x1.fa358ap-15f,
      -0x1.89a762p-13f, -0x1.4207e2p-13f, -0x1.7f86a6p-14f, -0x1.831762p-15f, -0x1.5dd8acp-16f,
      -0x1.231824p-17f}}};

template <class V>
ALWAYS_INLINE V by_normal_intervals(const Piecewise<6>& p, V a) {
  const V nearest = a * (kNormalLinear + kNormalSquare * a) + MathConstants<float>::kTwoToMantissa;
  return piecewise(p, bits_as<typename Lane<V>::bits>(nearest), a);
}

}  // namespace gradstep::GRADSTEP_ISA
