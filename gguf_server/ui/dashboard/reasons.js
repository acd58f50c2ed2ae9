// Why an engine failed, in words; a reason that this page does not know yet as the server spells it.

import { hasText } from "../language.js";

export const inWords = (reason) => (t) => (hasText(`reason.${reason}`) ? t(`reason.${reason}`) : reason);

export const adviceFor = (reason) => (hasText(`advice.${reason}`) ? `advice.${reason}` : null);
