import type { Backend } from '../backend.ts';
import { hostBackend } from './host-backend.ts';

/**
 * A backend that allocates nothing and computes nothing: it counts bytes and checks every argument, so a model's shapes,
 * memory and schedule can be tried at any size. Tensors read as zeros.
 */
export const nullBackend = (): Backend => hostBackend('null', 'null (no bytes, no arithmetic; checks arguments)', null);
