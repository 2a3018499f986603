export { DataParallel, type DataParallelOptions } from './data_parallel.ts';
export { placeWhole } from './placement.ts';
