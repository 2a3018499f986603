import { describeCases } from './cases.ts';

describeCases({ FP8_ISA: 'avx512', FP8_GEMM: 'fma' });
