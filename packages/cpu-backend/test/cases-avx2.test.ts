import { describeCases } from './cases.ts';

describeCases({ FP8_ISA: 'avx2' });
